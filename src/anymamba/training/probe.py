"""How long a step will take, measured before the first one, and whether enough of them fit into the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from anymamba.errors import AnymambaError
from anymamba.language import say
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import SIZES, config_of_size
from anymamba.training.config import TrainConfig
from anymamba.training.derive import batch_tokens, default_length
from anymamba.training.packing import Batch
from anymamba.training.report import clock
from anymamba.training.run import Run

FEWEST_STEPS = 10
"""A run of fewer steps has barely left its warm-up: not worth starting."""

SLICE = 128
"""Tokens of the first look at a model: what takes an hour on a row is noticed after seconds."""

CLEARLY = 3.0
"""A slice is slower a token than whole rows are; a verdict on a slice alone needs this much distance."""

SHORT = 1.5
"""Seconds; a pass that took less is measured again, since the first one compiles kernels."""

ADAM_BYTES, MEMORY_SPEED = 28, 8e9
"""AdamW reads weight, gradient and moments and writes three of them; bytes a second of a modest processor."""

Autocast = Callable[[], AbstractContextManager[Any]]


def pass_seconds(model: LanguageModel, batch: Batch, autocast: Autocast) -> float:
    """Seconds of forward and backward pass of this batch; the gradients are thrown away."""
    best = math.inf
    for _ in range(2):
        begin = time.perf_counter()
        with autocast():
            loss = model(batch.input_ids, targets=batch.labels, seq_idx=batch.seq_idx, normalizer=1.0).loss
        loss.backward()
        float(loss.detach())
        if batch.input_ids.device.type == "cuda":
            torch.cuda.synchronize(batch.input_ids.device)
        best = min(best, time.perf_counter() - begin)
        if best > SHORT:
            break
    model.zero_grad(set_to_none=True)
    return best


def token_seconds(model: LanguageModel, device: torch.device, autocast: Autocast) -> float:
    """Seconds a token, from a slice of random tokens: somewhat more than in whole rows."""
    ids = torch.randint(0, 256, (1, SLICE), generator=torch.Generator().manual_seed(0)).to(device)
    return pass_seconds(model, Batch(ids, ids, None, SLICE), autocast) / SLICE


def optimiser_seconds(parameters: int, device: torch.device) -> float:
    """An estimate; on accelerators it does not count."""
    return ADAM_BYTES * parameters / MEMORY_SPEED if device.type == "cpu" else 0.0


def step_seconds(run: Run, limit: float = math.inf) -> float:
    """Seconds of one step of this run, from one micro-batch; from a slice of it where that alone takes far more than ``limit``."""
    device, share = run.processes.device, run.plan.rows // run.processes.world
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    rough = token_seconds(run.model, device, run.autocast) * share * run.plan.length + optimiser_seconds(parameters, device)
    if rough > CLEARLY * limit:
        return rough
    part = run.feeder.batch(run.done.step, run.processes.rank, run.processes.world).part(0, run.micro_batch).to(device)
    return pass_seconds(run.model, part, run.autocast) * math.ceil(share / run.micro_batch) + optimiser_seconds(parameters, device)


def too_slow(config: TrainConfig, step: float, seconds: float, steps: int, autocast: Autocast, device: torch.device) -> AnymambaError:
    """The error for a model whose step takes ``step`` seconds where ``steps`` of them must fit into ``seconds``."""
    what = f"--from {config.start}" if config.start else f"--size {config.size}"
    minutes = config.max_minutes + max(0.0, steps * step * 1.05 - seconds) / 60
    rounded = math.ceil(minutes * 10) / 10 if minutes < 10 else math.ceil(minutes)
    size = "" if config.start else _size_that_can(config, step, seconds, steps, autocast, device)
    smaller = say(f"--size {size}, or ", f"--size {size}，或 ") if size else ""
    return AnymambaError(
        "time",
        say(
            f"{what} cannot make {steps} steps in --max-minutes {config.max_minutes:g}",
            f"{what} 无法在 --max-minutes {config.max_minutes:g} 内完成 {steps} 步",
        ),
        why=say(
            f"a step takes about {clock(step)} here, and {clock(max(0.0, seconds))} are left for them",
            f"此处每步约需 {clock(step)}，可用于训练的时间剩余 {clock(max(0.0, seconds))}",
        ),
        fix=smaller + say(
            f"--max-minutes {rounded:g} or more, or a smaller --batch-tokens", f"--max-minutes {rounded:g} 或更多，或减小 --batch-tokens"
        ),
    )


def _size_that_can(
    config: TrainConfig, step: float, seconds: float, steps: int, autocast: Autocast, device: torch.device
) -> str:
    """The largest smaller size that can; an empty string when none can. Sizes near the limit are tried, others estimated."""
    names = list(SIZES)
    known = step, _work(config.size, config)
    for size in reversed(names[: names.index(config.size)] if config.size in names else []):
        guess = known[0] * _work(size, config) / known[1]
        if guess * steps > CLEARLY * seconds:
            continue
        model = LanguageModel(config_of_size(size, config.model, 264)).to(device).train()
        measured = token_seconds(model, device, autocast) * _step_tokens(size, config)
        measured += optimiser_seconds(sum(parameter.numel() for parameter in model.parameters()), device)
        if measured * steps <= seconds:
            return size
        known = measured, _work(size, config)
    return ""


def _parameters(size: str) -> float:
    width, layers = SIZES[size]
    return 6.5 * width * width * layers


def _step_tokens(size: str, config: TrainConfig) -> int:
    """Tokens of a step on a corpus that is not small."""
    parameters = _parameters(size)
    length = config.length or default_length(parameters)
    return max(1, round((config.batch_tokens or batch_tokens(parameters)) / length)) * length


def _work(size: str, config: TrainConfig) -> float:
    return _parameters(size) * _step_tokens(size, config)
