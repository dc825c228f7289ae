"""One side of a comparison: a model under one backend, in one dtype, read in parallel or token by token."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba.backends import REGISTRY
from anymamba.backends.dispatch import use_backend
from anymamba.errors import AnymambaError
from anymamba.generation.mitigation import ResynchronisedReader, keep_residual_in_float32
from anymamba.generation.stepper import Stepper, choose_stepper, own_stepper
from anymamba.language import _
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.state import LayerState

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64,
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64,
}  # fmt: skip
MODES = ("scan", "step", "whole")
INTERPRETED = "triton-interpreted"
BACKENDS = {**{name: name for name in REGISTRY}, "torch-reference": "reference", "torch-chunked": "torch", INTERPRETED: "triton"}
"""What a user may call a backend -> its name. Triton's interpreter runs the Triton kernels on any machine."""

RESIDUALS = {"residual-float32": True, "residual-dtype": False}
"""Word -> residual_in_fp32: the residual stream in float32, or in the dtype of the weights."""


@dataclass(frozen=True)
class Side:
    """backend: None is the automatic choice. dtype: None is the checkpoint's.

    mode: "scan" reads pieces in parallel, "step" one token at a time, the way generation does, "whole" the text in one pass.
    residual_in_fp32: None is the checkpoint's. state_dtype: what the state is rounded to after each token or piece, to measure
    what float32 buys. resync: in mode "step", tokens after which the state is read anew in parallel; 0: never.
    """

    name: str
    backend: str | None = None
    dtype: torch.dtype | None = None
    mode: str = "scan"
    residual_in_fp32: bool | None = None
    state_dtype: torch.dtype | None = None
    resync: int = 0


def parse_side(text: str, dtype: torch.dtype | None = None) -> Side:
    """Words joined by colons: "cpu", "torch:bfloat16", "step", "cpu:float32:step:resync-512", "triton-interpreted".

    dtype: unless a word says another. Naming Triton's interpreter switches it on for the whole process.
    """
    values: dict[str, Any] = {"dtype": dtype}
    for word in text.split(":"):
        if word in BACKENDS:
            values["backend"] = BACKENDS[word]
            if word == INTERPRETED:
                from anymamba.numerics import interpreted

                interpreted.switch_on()
        elif word in DTYPES:
            values["dtype"] = DTYPES[word]
        elif word in MODES:
            values["mode"] = word
        elif word in RESIDUALS:
            values["residual_in_fp32"] = RESIDUALS[word]
        elif word.startswith("state-") and word[6:] in DTYPES:
            values["state_dtype"] = DTYPES[word[6:]]
        elif word.startswith("resync-") and word[7:].isdigit() and int(word[7:]) > 0:
            values["resync"] = int(word[7:])
        else:
            raise AnymambaError(
                "usage",
                _("{text!r}: {word!r} is neither a backend, a dtype, a mode nor an option").format(
                    text=text, word=word
                ),
                fix=_("join words of these by colons: ")
                + ", ".join([*BACKENDS, *DTYPES, *MODES, *RESIDUALS, "state-DTYPE", "resync-N"]),
            )
    if values.get("resync") and values.get("mode") != "step":
        raise AnymambaError(
            "usage",
            _("{text!r}: resync belongs to step").format(text=text),
            fix=f"step:resync-{values['resync']}",
        )
    return Side(text, **values)


def check_pair(a: Side, b: Side) -> None:
    """Raises AnymambaError for two sides that cannot be in one process."""
    words = {word for side in (a, b) for word in side.name.split(":")}
    if {"triton", INTERPRETED} <= words:
        raise AnymambaError(
            "usage",
            _("one process either compiles Triton's kernels or interprets them"),
            fix=_("compare each with reference"),
        )


class Scorer:
    """A copy of the model that reads one text under its side; ``read`` may be called again and again."""

    def __init__(self, model: LanguageModel, side: Side) -> None:
        self.side = side
        self.model = copy.deepcopy(model)
        if side.dtype is not None:
            self.model.to(side.dtype)
        if side.residual_in_fp32 is not None:
            keep_residual_in_float32(self.model, side.residual_in_fp32)
        self.model.eval()
        self.cache = self.model.make_cache(1)
        self._stepper: Stepper | None = None
        self._whole: Tensor | None = None
        self._read = 0
        self._reader = ResynchronisedReader(self.model, 1, self.cache, side.resync) if side.resync else None

    @torch.inference_mode()
    def prepare(self, text: Tensor) -> None:
        """The text (tokens,) that ``read`` will give in pieces: a side in mode "whole" reads it now, in one pass."""
        if self.side.mode == "whole":
            self._whole = self._parallel(text)

    @torch.inference_mode()
    def read(self, ids: Tensor) -> Tensor:
        """ids (tokens,) -> logits (tokens, vocabulary) of the token after each, in float64 on the CPU."""
        self._read += len(ids)
        if self._whole is not None:
            return self._whole[self._read - len(ids) : self._read].cpu().double()
        if self.side.mode == "step":
            return torch.cat([self._step(token[None]) for token in ids])
        logits = self._parallel(ids).cpu().double()
        self._round_state()
        return logits

    @torch.inference_mode()
    def states(self) -> list[Tensor] | None:
        """The recurrent state of each layer that has one after what was read, float64 on the CPU; None inside a text that was read in one
        pass."""
        if self._whole is not None and self._read < len(self._whole):
            return None
        if self._stepper is not None:
            self._stepper.write_back()
        if self._reader is not None:
            self._reader.leave_stepper()
        return [state.ssm.cpu().double().clone() for state in self._recurrent()]

    def _parallel(self, ids: Tensor) -> Tensor:
        with use_backend(self.side.backend):
            logits = self.model(ids[None].to(self.model.device), cache=self.cache).logits
        assert logits is not None
        return logits[0]

    def _step(self, ids: Tensor) -> Tensor:
        ids = ids.to(self.model.device)
        with use_backend(self.side.backend):
            if self._reader is not None:
                return self._reader.step(ids).cpu().double()
            if self._stepper is None:
                # a fused stepper keeps its own copy of the state, out of reach between two tokens
                own = self.side.state_dtype is not None
                self._stepper = own_stepper(self.model, self.cache, "") if own else choose_stepper(self.model, self.cache)
            logits = self._stepper.step(ids).cpu().double().clone()
        self._round_state()
        return logits

    def _recurrent(self) -> list[LayerState]:
        return [state for layer in self.cache.layers for state in layer.recurrent()]

    def _round_state(self) -> None:
        if self.side.state_dtype is not None:
            for state in self._recurrent():
                state.ssm.copy_(state.ssm.to(self.side.state_dtype))
