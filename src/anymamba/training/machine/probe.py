"""How long a step will take, measured before the first one, and whether enough of them fit into the time."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import SIZES, config_of_size, parameters_of
from anymamba.training.data.rows import Batch
from anymamba.training.machine import fit
from anymamba.training.machine.precision import choose_precision
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.derive import batch_tokens, default_length
from anymamba.training.run.parts import Run
from anymamba.training.show.report import clock

FEWEST_STEPS = 10
"""A run of fewer steps has barely left its warm-up: not worth starting."""

SLICE = 128
"""Tokens of the first look at a model: what takes an hour on a row is noticed after seconds."""

CLEARLY = 3.0
"""A slice is slower a token than whole rows are; a verdict on a slice alone needs this much distance."""

SHORT = 1.5
"""Seconds; a pass that took less is measured again, since the first one compiles kernels."""

BYTES_PER_TOKEN = 6
"""Of text, at most; a corpus that looks smaller than it is only lets a run begin that is refused a little later."""

ADAM_BYTES, MEMORY_SPEED = 28, 8e9
"""AdamW reads weight, gradient and moments and writes three of them; bytes a second of a modest processor."""

Autocast = Callable[[], AbstractContextManager[Any]]


def pass_seconds(model: LanguageModel, batch: Batch, autocast: Autocast) -> float:
    """Seconds of forward and backward pass of this batch; the gradients are thrown away."""
    best = math.inf
    for __ in range(2):
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
    trained = fit.trained_parameters(run.model)
    rough = token_seconds(run.model, device, run.autocast) * share * run.plan.length + optimiser_seconds(trained, device)
    if rough > CLEARLY * limit:
        return rough
    part = run.feeder.batch(run.done.step, run.processes.rank, run.processes.world).part(0, run.micro_batch).to(device)
    return pass_seconds(run.model, part, run.autocast) * math.ceil(share / run.micro_batch) + optimiser_seconds(trained, device)


def too_slow(config: TrainConfig, step: float, seconds: float, steps: int, autocast: Autocast, device: torch.device) -> AnymambaError:
    """The error for a model whose step takes ``step`` seconds where ``steps`` of them must fit into ``seconds``."""
    what = f"--from {config.start}" if config.start else f"--size {config.size}"
    minutes = config.max_minutes + max(0.0, steps * step * 1.05 - seconds) / 60
    rounded = math.ceil(minutes * 10) / 10 if minutes < 10 else math.ceil(minutes)
    size = "" if config.start else _size_that_can(config, seconds, steps, autocast, device)
    smaller = _("--size {size}, or ").format(size=size) if size else ""
    return AnymambaError(
        "time",
        _("{what} cannot make {steps} steps in --max-minutes {minutes:g}").format(
            what=what, steps=steps, minutes=config.max_minutes
        ),
        why=_("a step takes about {step} here, and {left} are left for them").format(
            step=clock(step), left=clock(max(0.0, seconds))
        ),
        fix=smaller + _("--max-minutes {rounded:g} or more, or a smaller --batch-tokens").format(rounded=rounded),
    )


def refuse_early(config: TrainConfig, device: torch.device, text_bytes: int, world: int, begin: float) -> None:
    """Raises AnymambaError for a size that clearly cannot make FEWEST_STEPS in --max-minutes, before any data is read.

    text_bytes: of the data, 0 where it is not known. world: processes. Two layers stand for all, and a slice for a row.
    """
    if not config.max_minutes or config.start or config.shard or config.size == next(iter(SIZES)):
        return
    dtype, _ = choose_precision(config.precision, device)

    def autocast() -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)

    steps = min(FEWEST_STEPS, config.steps or FEWEST_STEPS)
    tokens = text_bytes // (1 if config.tokenizer == "bytes" and not config.train_tokenizer else BYTES_PER_TOKEN)
    step = min(_size_step_seconds(config.size, config, autocast, device, tokens) for _ in range(2)) / world
    left = begin + config.max_minutes * 60 - time.perf_counter()
    if step * steps > CLEARLY * left:
        raise too_slow(config, step, left, steps, autocast, device)


def _size_that_can(config: TrainConfig, seconds: float, steps: int, autocast: Autocast, device: torch.device) -> str:
    """The largest smaller size that can; an empty string when none can."""
    names = list(SIZES)
    for size in reversed(names[: names.index(config.size)] if config.size in names else []):
        if _size_step_seconds(size, config, autocast, device) * steps <= seconds:
            return size
    return ""


def _size_step_seconds(size: str, config: TrainConfig, autocast: Autocast, device: torch.device, tokens: int = 0) -> float:
    """Of a step on a corpus of so many tokens (0: a large one), measured on two of the size's layers."""
    whole = config_of_size(size, config.model, 264)
    layers = min(2, whole.num_hidden_layers)
    parameters = parameters_of(whole)
    length = config.length or default_length(parameters)
    step = config.batch_tokens or batch_tokens(parameters)
    if tokens and not config.batch_tokens:
        step = min(step, max(length, tokens // 16))
    model = LanguageModel(dataclasses.replace(whole, num_hidden_layers=layers)).to(device).train()
    seconds = token_seconds(model, device, autocast) * whole.num_hidden_layers / layers
    return seconds * max(1, round(step / length)) * length + optimiser_seconds(parameters, device)
