"""Prefill, then step: one loop for generate, stream, chat and the command line.

A ``Reader`` holds a model's recurrent state for a batch of rows and gives the logits of the next token. It reads a prompt in
pieces (memory does not grow with its length) and then one token a row at a time, through the fastest stepper of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.decode_model import DecodeModel
from anymamba.errors import ArgumentError
from anymamba.generation.sampling import Sampling
from anymamba.generation.stepper import Stepper, choose_stepper, fused
from anymamba.generation.steps import Step as Step
from anymamba.generation.steps import Timing as Timing
from anymamba.generation.steps import steps as steps
from anymamba.language import _
from anymamba.models.cache import Cache
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.padding import on_the_left
from anymamba.models.trunk.watch import Watch

PREFILL_TOKENS = 4096
"""Tokens of a prompt read at once."""

BYTES_BY_STEPS = 16 * 10**9
"""Bytes of weights that are read, token by token, instead of a pass over the prompt on a GPU: some 8 ms, which the pass's launches take."""

FIRST_BYTES_BY_STEPS = 400 * 10**9
"""The same where the pass's kernels would have to be loaded first: some 200 ms."""

AHEAD = 16
"""Tokens of a small model that the host looks at together on a GPU; a quarter of it of a model of a billion parameters or more, whose
tokens take so long that a reader would see them come in bursts."""


class Reader:
    """The state of ``rows`` texts under one model. logits: (rows, vocabulary) of the next token, None before anything was read."""

    def __init__(
        self, model: LanguageModel, rows: int = 1, cache: Cache | None = None, *, alone: bool = False, first: bool = False
    ) -> None:
        self.model = model
        self.cache = cache if cache is not None else model.make_cache(rows)
        self.logits: Tensor | None = None
        self.timing = Timing()
        self._stepper: Stepper | None = None
        self._watch: Watch | None = None
        self.alone = alone
        """Whether nobody's code runs between two steps, so that nothing can be attached to the model there: it is not looked at again."""
        self._bytes_by_steps = FIRST_BYTES_BY_STEPS if first else BYTES_BY_STEPS
        """first: whether this is the first that the process does on its device."""

    @property
    def ahead(self) -> int:
        """How many tokens ``steps`` may look at together where nobody needs the state afterwards; 0 on processors, which do not run ahead
        of their host, and where somebody may attach something to the model between two steps."""
        if not self.alone or self.model.device.type != "cuda":
            return 0
        return AHEAD if sum(parameter.numel() for parameter in self.model.parameters()) < 10**9 else AHEAD // 4

    @torch.inference_mode()
    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Reads tokens, (rows, length), in parallel pieces, and returns the logits after the last of each row.

        attention_mask: (rows, length or more), 0 for padding, wherever it stands; a longer one counts from the right.
        """
        if input_ids.dim() != 2 or input_ids.shape[1] == 0:
            raise ArgumentError(
                "shape",
                _("input_ids must be (rows, length) with at least one token, not {shape}").format(
                    shape=tuple(input_ids.shape)
                ),
            )
        started = time.perf_counter()
        if attention_mask is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        self.leave_stepper()
        known = self._fused(input_ids) if attention_mask is None else None
        if known is not None:
            self._choose_stepper(known)
            for ids in input_ids.unbind(1):
                self.step(ids)
            self.timing.prompt_tokens += input_ids.numel()
            self.timing.prompt_seconds += time.perf_counter() - started
            assert self.logits is not None
            return self.logits
        if attention_mask is not None:
            input_ids, attention_mask = on_the_left(input_ids, attention_mask)
        for start in range(0, input_ids.shape[1], PREFILL_TOKENS):
            piece = slice(start, start + PREFILL_TOKENS)
            mask = None if attention_mask is None else attention_mask[:, piece]
            output = self.model(input_ids[:, piece], cache=self.cache, attention_mask=mask, logits_to_keep=1)
        self.logits = output.logits[:, -1].float()
        self.timing.prompt_tokens += input_ids.numel() if attention_mask is None else int(attention_mask.sum())
        self.timing.prompt_seconds += time.perf_counter() - started
        return self.logits

    def _fused(self, input_ids: Tensor) -> DecodeModel | None:
        """What a fused step reads, if a prompt is so short that one kernel a token reads it sooner than a pass of hundreds of kernels,
        which a process has to load before it runs them the first time."""
        if not self.alone or self.model.device.type != "cuda" or len(input_ids) > 1:
            return None
        weights = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())
        return fused(self.model, self.cache) if input_ids.shape[1] * weights <= self._bytes_by_steps else None

    def _choose_stepper(self, known: DecodeModel | None = None) -> Stepper:
        self._watch = Watch(self.model)
        self._stepper = choose_stepper(self.model, self.cache, known)
        self.timing.stepper, self.timing.why = self._stepper.name, self._stepper.why
        return self._stepper

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Reads one token a row, (rows,), and returns the logits of the next; valid until the next call."""
        if self._watch is not None and not self.alone and self._watch.changed():
            self.leave_stepper()
        self.logits = (self._stepper or self._choose_stepper()).step(ids)
        return self.logits

    def leave_stepper(self) -> None:
        """Brings the cache up to date with what the stepper has read; called before anything else uses the cache."""
        if self._stepper is not None:
            self._stepper.write_back()
            self._stepper = self._watch = None


def generate(
    model: LanguageModel,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    eos: list[int] | None = None,
    cache: Cache | None = None,
    **sampling: Any,
) -> Tensor:
    """Continues every row: returns (rows, length + new tokens). After a row's end token the end token is repeated.

    input_ids: (rows, length) integers, padding where attention_mask, (rows, length), is 0. max_new_tokens: -1 goes on
    until every row has ended. eos: ids that end a row (default: the model's). cache: a state to continue from. sampling: fields of
    ``sampling.Sampling``; greedy by default.
    """
    reader = Reader(model, input_ids.shape[0], cache, alone=True)
    reader.read(input_ids, attention_mask)
    ends = model.config.eos_token_ids if eos is None else eos
    ahead = reader.ahead if cache is None else 0
    chosen = steps(reader, max_new_tokens, Sampling(**sampling), input_ids, ends, attention_mask=attention_mask, ahead=ahead)
    new = [step.ids for step in chosen]
    reader.leave_stepper()
    return torch.cat([input_ids, torch.stack(new, dim=1).to(input_ids)], dim=1) if new else input_ids.clone()


def stream(
    model: LanguageModel,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    eos: list[int] | None = None,
    cache: Cache | None = None,
    measure: bool = False,
    top: int = 0,
    **sampling: Any,
) -> Iterator[Step]:
    """Like generate, yielding each Step as it comes; memory does not grow with the number of tokens. measure, top: as of ``steps``."""
    reader = Reader(model, input_ids.shape[0], cache)
    reader.read(input_ids, attention_mask)
    ends = model.config.eos_token_ids if eos is None else eos
    yield from steps(reader, max_new_tokens, Sampling(**sampling), input_ids, ends, measure, attention_mask, top)
    reader.leave_stepper()
