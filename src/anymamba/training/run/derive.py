"""From --size and the data everything else: each value with the reason that is printed beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from anymamba.language import _, ngettext
from anymamba.training.data.tokenfile import TokenFile
from anymamba.training.run.config import TrainConfig

PASSES = 8
"""Passes over a small corpus. Up to 4 repeats are nearly as good as new text, beyond 16 they are worth nothing
(Muennighoff et al. 2023, "Scaling Data-Constrained Language Models")."""

TOKENS_PER_PARAMETER = 20
"""What is worth training on (Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models")."""

INSTRUCT_PASSES = 3


@dataclass
class RunPlan:
    """The values a run uses. reasons: name -> why, for those that were derived; the others were given."""

    length: int = 0
    rows: int = 0
    steps: int = 0
    warmup: int = 0
    lr: float = 0.0
    eval_every: int = 0
    sample_every: int = 0
    save_every: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


def default_length(parameters: float) -> int:
    """Tokens in a row for a model of this size."""
    return next(length for most, length in ((8e6, 256), (6e7, 512), (2e8, 1024), (math.inf, 2048)) if parameters < most)


def batch_tokens(parameters: float) -> int:
    """Tokens in a step for a model of this size."""
    return next(size for most, size in ((8e6, 4096), (6e7, 16384), (2e8, 65536), (math.inf, 262144)) if parameters < most)


def row_length(config: TrainConfig, parameters: int, train: TokenFile) -> tuple[int, str]:
    """(tokens in a row, why)."""
    total = len(train.tokens)
    if train.learn is not None:
        ends = [*train.starts[1:].tolist(), total]
        longest = max(end - start - 1 for start, end in zip(train.starts.tolist(), ends))
        if config.length:
            return config.length, ""
        return -(-longest // 64) * 64, _("the longest example")
    if config.length:
        return min(config.length, total - 1), "" if config.length < total else _("all the text there is")
    default = default_length(parameters)
    if total - 1 < default:
        return total - 1, _("all the text there is")
    return default, _("for a model of this size")


def derive(config: TrainConfig, parameters: int, width: int, train: TokenFile, length: int, rows_per_epoch: int, world: int) -> RunPlan:
    """parameters, width: of the model. rows_per_epoch: rows of ``length`` tokens in a pass. world: processes."""
    plan = RunPlan(length=length)
    plan.rows = _rows(config, parameters, length, rows_per_epoch, world, plan.reasons)
    plan.lr = config.lr or _rate(config, width, plan.reasons)
    plan.steps = config.steps or _steps(config, parameters, plan, rows_per_epoch)
    plan.warmup = min(config.warmup, plan.steps) or max(1, min(500, plan.steps // 20))
    if not config.warmup:
        plan.reasons["warmup"] = _("a twentieth of the steps, at most 500")
    return plan


def set_intervals(plan: RunPlan, config: TrainConfig) -> None:
    """How often the run validates, saves and writes samples."""
    plan.eval_every = config.eval_every or min(1000, max(10, plan.steps // 10))
    plan.save_every = config.save_every or min(1000, max(20, plan.steps // 10))
    plan.sample_every = config.sample_every or max(1, plan.steps // 4)


def _rows(config: TrainConfig, parameters: int, length: int, rows_per_epoch: int, world: int, reasons: dict[str, str]) -> int:
    tokens = config.batch_tokens
    if not tokens:
        tokens = batch_tokens(parameters)
        # a small corpus needs steps more than it needs exact gradients
        tokens = min(tokens, max(length, rows_per_epoch * length // 16))
        reasons["rows"] = _("about {tokens} tokens a step").format(tokens=tokens)
    return max(1, round(tokens / length / world)) * world


def _rate(config: TrainConfig, width: int, reasons: dict[str, str]) -> float:
    rate = 3e-3 * math.sqrt(256 / width)
    why = _("as in the Mamba paper, with the root of the width")
    if config.lora_options is not None:
        # where tuning all weights wants a tenth: ten times that (Schulman et al. 2025, "LoRA Without Regret")
        why += _(", which suits low-rank changes of a trained model too")
    elif config.start:
        rate *= 0.1 if config.instruct else 0.3
        why += _(", less since the model is trained already")
    reasons["lr"] = why
    return float(f"{rate:.2g}")


def _steps(config: TrainConfig, parameters: int, plan: RunPlan, rows_per_epoch: int) -> int:
    epoch = rows_per_epoch / plan.rows
    if config.epochs:
        plan.reasons["steps"] = ngettext(
            "{epochs:g} pass over the data", "{epochs:g} passes over the data", config.epochs
        ).format(epochs=config.epochs)
        return max(1, math.ceil(config.epochs * epoch))
    if config.instruct:
        plan.reasons["steps"] = _("{instruct_passes} passes over the examples").format(instruct_passes=INSTRUCT_PASSES)
        return max(1, math.ceil(INSTRUCT_PASSES * epoch))
    compute = TOKENS_PER_PARAMETER * parameters / (plan.rows * plan.length)
    if compute < PASSES * epoch:
        plan.reasons["steps"] = _("{tokens_per_parameter} tokens a parameter").format(
            tokens_per_parameter=TOKENS_PER_PARAMETER
        )
        return max(1, math.ceil(compute))
    plan.reasons["steps"] = _("{passes} passes over the data").format(passes=PASSES)
    return max(1, math.ceil(PASSES * epoch))

