"""The ways to read one token: a fused program on the CPU, one fused kernel or a CUDA graph on a GPU, or the model's own step.

A stepper may keep the recurrent state in a layout of its own; ``write_back`` brings the cache up to date.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from anymamba.errors import warn_once
from anymamba.generation import cpu_stepper, cuda_stepper, graph_stepper
from anymamba.language import say
from anymamba.models.cache import Cache
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.watch import readable


class Stepper(Protocol):
    """name, why: what it is and why it was chosen, for reports."""

    name: str
    why: str

    def step(self, ids: Tensor) -> Tensor:
        """ids (rows,) -> logits (rows, vocabulary) in float32, valid until the next call."""

    def write_back(self) -> None:
        """Makes the cache hold the state after the last step."""


class ModelStepper:
    """The model's forward pass on one token a row, op by op."""

    name = "model"

    def __init__(self, model: LanguageModel, cache: Cache, why: str) -> None:
        self.why = why
        self._model, self._cache = model, cache

    def step(self, ids: Tensor) -> Tensor:
        output = self._model(ids[:, None], cache=self._cache)
        assert output.logits is not None
        return output.logits[:, -1].float()

    def write_back(self) -> None:
        """The model changes the cache itself."""


def choose_stepper(model: LanguageModel, cache: Cache) -> Stepper:
    """The fastest that can serve this model here. What goes wrong in a faster one is said once, and the next serves.

    All but the model's own step read weights instead of calling modules, so they serve a model of which the weights are everything.
    """
    ok, reason = readable(model)
    if not ok:
        warn_once("stepper " + reason, say(f"generation runs module by module: {reason}", f"生成将逐模块运行：{reason}"))
        return ModelStepper(model, cache, reason)
    reasons: list[str] = []
    for kind in (cpu_stepper, cuda_stepper, graph_stepper):
        ok, reason = kind.supports(model, cache)
        if ok:
            try:
                return kind.make(model, cache, reason)
            except Exception as error:  # noqa: BLE001 - a JIT that fails here must not stop the text
                reason = f"{type(error).__name__}: {error}"
                warn_once(
                    "stepper" + reason,
                    say(f"generation takes the slower path: {reason}", f"生成将使用较慢的路径：{reason}"),
                )
        reasons.append(reason)
    return ModelStepper(model, cache, "; ".join(reasons))
