"""One side of a comparison: a model under one backend, in one dtype, read in parallel or token by token."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from anymamba.backends import REGISTRY
from anymamba.backends.dispatch import use_backend
from anymamba.errors import AnymambaError
from anymamba.generation.stepper import Stepper, choose_stepper
from anymamba.language import say
from anymamba.models.lm import LanguageModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
MODES = ("scan", "step")


@dataclass(frozen=True)
class Side:
    """backend: None is the automatic choice. dtype: None is the checkpoint's. mode: "scan" reads pieces in parallel, "step" one
    token at a time, the way generation does."""

    name: str
    backend: str | None = None
    dtype: torch.dtype | None = None
    mode: str = "scan"


def parse_side(text: str) -> Side:
    """Words joined by colons, each a backend, a dtype or a mode: "cpu", "torch:bfloat16", "step", "cpu:float32:step"."""
    backend, dtype, mode = None, None, "scan"
    for word in text.split(":"):
        if word in REGISTRY:
            backend = word
        elif word in DTYPES:
            dtype = DTYPES[word]
        elif word in MODES:
            mode = word
        else:
            raise AnymambaError(
                "usage",
                say(
                    f"{text!r}: {word!r} is neither a backend, a dtype nor a mode",
                    f"{text!r}：{word!r} 既不是后端、数据类型，也不是模式",
                ),
                fix=say("join words of these by colons: ", "请用冒号连接以下词语：")
                + ", ".join([*REGISTRY, *DTYPES, *MODES]),
            )
    return Side(text, backend, dtype, mode)


class Scorer:
    """A copy of the model that reads one text under its side; ``read`` may be called again and again."""

    def __init__(self, model: LanguageModel, side: Side) -> None:
        self.side = side
        self.model = copy.deepcopy(model)
        if side.dtype is not None:
            self.model.to(side.dtype)
        self.model.eval()
        self.cache = self.model.make_cache(1)
        self._stepper: Stepper | None = None

    @torch.inference_mode()
    def read(self, ids: Tensor) -> Tensor:
        """ids (tokens,) -> logits (tokens, vocabulary) of the token after each, in float64 on the CPU."""
        with use_backend(self.side.backend):
            if self.side.mode == "scan":
                logits = self.model(ids[None].to(self.model.device), cache=self.cache).logits
                assert logits is not None
                return logits[0].cpu().double()
            if self._stepper is None:
                self._stepper = choose_stepper(self.model, self.cache)
            rows = [self._stepper.step(token[None].to(self.model.device)).cpu().double().clone() for token in ids]
            return torch.cat(rows)

    @torch.inference_mode()
    def states(self) -> list[Tensor]:
        """The recurrent state of each layer after what was read, float64 on the CPU."""
        if self._stepper is not None:
            self._stepper.write_back()
        return [layer.ssm.cpu().double().clone() for layer in self.cache.layers]
