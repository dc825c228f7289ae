"""One token of every row after another, until every row has ended: chosen on the device, looked at by the host as late as may be.

Looking at a token waits for the device. Where the text goes on anyway the host therefore has the device choose and read some tokens
more, and looks at them together while the next are under way; those behind a text's end are thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anymamba.errors import ArgumentError
from anymamba.generation.sampling import Sampler, Sampling
from anymamba.language import _


@dataclass
class Step:
    """One token of every row. ids: (batch,). done: (batch,) rows that have ended. When asked for, of the model's own distribution at
    temperature 1, in nats: log_probability, entropy: (batch,); top_ids, top_log_probabilities: (batch, top), the likeliest first."""

    ids: Tensor
    done: Tensor
    log_probability: Tensor | None = None
    entropy: Tensor | None = None
    top_ids: Tensor | None = None
    top_log_probabilities: Tensor | None = None


_FIELDS = "ids", "done", "log_probability", "entropy", "top_ids", "top_log_probabilities"


@dataclass
class Timing:
    """Seconds and tokens of a generation."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    new_seconds: float = 0.0
    stepper: str = ""
    why: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / self.new_seconds if self.new_seconds else 0.0


class Reader(Protocol):
    """What reads the tokens that are chosen: ``engine.Reader``."""

    logits: Tensor | None
    timing: Timing

    def step(self, ids: Tensor) -> Tensor: ...


def steps(
    reader: Reader,
    max_new_tokens: int,
    sampling: Sampling,
    prompt: Tensor | None = None,
    eos: list[int] | None = None,
    measure: bool = False,
    attention_mask: Tensor | None = None,
    top: int = 0,
    ahead: int = 0,
) -> Iterator[Step]:
    """Chooses and reads tokens until every row has ended or ``max_new_tokens`` (-1: without limit).

    reader must have logits. prompt: (rows, length), for the penalties; attention_mask: 0 where it is padding, which they do not
    count. measure: also log-probability and entropy; top: and those of so many of the likeliest tokens. ahead: tokens that are looked
    at together, by the host; the reader may then have read up to twice as many behind the end of the texts, and what is yielded is on
    the CPU. 0: every token is looked at before the next is read.
    """
    if max_new_tokens < -1:
        raise ArgumentError(
            "usage",
            _("max_new_tokens is {max_new_tokens}: a number of tokens, or -1 to go on until the text ends").format(
                max_new_tokens=max_new_tokens
            ),
        )
    choosing = _Choosing(reader, sampling, prompt, eos or [], measure, attention_mask, top)
    if ahead:
        yield from _together(choosing, reader, max_new_tokens, ahead)
    else:
        yield from _one_by_one(choosing, reader, max_new_tokens)


class _Choosing:
    """Calls give the next token of every row, on the device, and wait for nothing."""

    def __init__(
        self, reader: Reader, sampling: Sampling, prompt: Tensor | None, eos: list[int], measure: bool, mask: Tensor | None, top: int
    ) -> None:
        if reader.logits is None:
            raise ArgumentError("usage", _("nothing was read yet: an empty prompt"))
        self._reader, self._logits = reader, reader.logits
        self._measure, self._top = measure or bool(top), top
        self.rows, vocabulary = self._logits.shape
        self.eos, device = eos, self._logits.device
        self._sampler = Sampler(sampling, self.rows, device)
        nothing = torch.empty(self.rows, 0, dtype=torch.long, device=device)
        self._sampler.start(prompt if prompt is not None else nothing, vocabulary, mask)
        self._ends = torch.tensor(eos, device=device)
        self._done = torch.zeros(self.rows, dtype=torch.bool, device=device)
        self._last: Tensor | None = None

    @torch.inference_mode()
    def __call__(self) -> Step:
        if self._last is not None:
            self._logits = self._reader.step(self._last)
        logits = self._logits
        ids = self._sampler(logits)
        step = Step(ids, self._done)
        if self._measure:
            step.log_probability, step.entropy = confidence(logits, ids)
        if self._top:
            likeliest = logits.float().log_softmax(-1).topk(min(self._top, logits.shape[-1]))
            step.top_ids, step.top_log_probabilities = likeliest.indices, likeliest.values
        if self.eos and self.rows > 1:
            # a row that has ended keeps repeating its end, so that the batch stays a rectangle
            ids = step.ids = torch.where(self._done, self._ends[0], ids)
            self._done = step.done = self._done | torch.isin(ids, self._ends)
        self._last = ids
        return step

    def looked_at(self, step: Step) -> tuple[Step, int]:
        """The step, and how many rows go on after it. Of a single row the device is not asked whether it has ended."""
        if self.rows > 1:
            return step, self.rows - int(step.done.sum()) if self.eos else self.rows
        ended = bool(self.eos) and int(step.ids[0]) in self.eos
        if ended:
            step.done = torch.ones_like(step.done)
        return step, int(not ended)


def _one_by_one(choosing: _Choosing, reader: Reader, limit: int) -> Iterator[Step]:
    count, running = 0, choosing.rows
    while limit < 0 or count < limit:
        started = time.perf_counter()
        step, going_on = choosing.looked_at(choosing())
        reader.timing.new_tokens += running
        reader.timing.new_seconds += time.perf_counter() - started
        yield step
        count, running = count + 1, going_on
        if not running:
            return


def _together(choosing: _Choosing, reader: Reader, limit: int, ahead: int) -> Iterator[Step]:
    """The first token alone, so that it is shown at once; then always the tokens before those that are under way. What the caller does
    with a token takes the device's time as well, so it counts as time of the generation."""
    count, running, started = 0, choosing.rows, time.perf_counter()
    before: _Block | None = None
    while before is not None or limit < 0 or count < limit:
        size = 1 if not count else ahead if limit < 0 else min(ahead, limit - count)
        block = _Block([choosing() for __ in range(size)]) if size else None
        count += size
        whole, before = (block, None) if count == 1 else (before, block)
        for step, going_on in map(choosing.looked_at, whole.steps() if whole is not None else ()):
            now = time.perf_counter()
            reader.timing.new_tokens += running
            reader.timing.new_seconds += now - started
            running, started = going_on, now
            yield step
            if not running:
                return


class _Block:
    """Steps whose tensors are on their way to the host."""

    def __init__(self, chosen: list[Step]) -> None:
        parts = {name: [getattr(step, name) for step in chosen] for name in _FIELDS if getattr(chosen[0], name) is not None}
        on_device = {name: torch.stack(tensors) for name, tensors in parts.items()}
        self._size = len(chosen)
        self._tensors = {name: _copy(tensor) for name, tensor in on_device.items()}
        self._copied = torch.cuda.Event() if chosen[0].ids.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def steps(self) -> Iterator[Step]:
        """Waits for them, not for what the device was given since."""
        if self._copied is not None:
            self._copied.synchronize()
        for index in range(self._size):
            yield Step(**{name: tensor[index] for name, tensor in self._tensors.items()})


def _copy(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.cpu()
    # only into pinned memory does a copy not wait for the device
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def confidence(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of the chosen ids, (rows,), and entropy, (rows,), of the distribution of the logits; in nats."""
    log_probabilities = logits.float().log_softmax(-1)
    chosen = log_probabilities.gather(-1, ids[:, None])[:, 0]
    return chosen, -(log_probabilities.exp() * log_probabilities.clamp_min(-1e4)).sum(-1)
