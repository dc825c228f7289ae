"""Forward and backward pass of a batch as a replayed CUDA graph.

A small model's step is a thousand kernels of which most take less time than their launch from Python. Captured once, they follow one
another on the card without the host. The numbers are those of the same kernels launched one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from anymamba.errors import warn_once
from anymamba.language import _
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.watch import Watch, readable

LARGEST = 10**9
"""Parameters of a model whose kernels are short enough for launches to matter."""

SPARE = 0.15
"""Share of the card's memory that has to be free after the capture: a graph keeps its activations, and validation needs its own."""


def supports(model: LanguageModel) -> tuple[bool, str]:
    """(True, why) or (False, why not)."""
    device = model.device
    if device.type != "cuda":
        return False, _("CUDA graphs need a CUDA or ROCm device")
    ok, reason = readable(model)
    if not ok:
        return False, _("a graph would run no module again: {reason}").format(reason=reason)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > LARGEST:
        return False, _("the kernels of a large model hide their launches")
    return True, _("forward and backward are replayed as a CUDA graph")


class GraphedPass:
    """Loss and gradients of batches without ``seq_idx``, a graph for each shape.

    Called like the model with targets; returns the loss, and leaves the sum of this and earlier calls' gradients in ``.grad``, whose
    memory is the graph's: take the gradients (or set them to None) before the next sum begins.
    """

    def __init__(self, model: LanguageModel, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._model, self._autocast = model, autocast
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._captured: dict[torch.Size, _Captured | None] = {}
        self._watch, self._readable = Watch(model, values=False), True

    def __call__(self, input_ids: Tensor, targets: Tensor, normalizer: float) -> Tensor | None:
        """None where this shape cannot be captured here, which is said once: then the caller does it step by step."""
        if self._watch.changed():  # what is captured knows nothing of a hook or an adapter that came later
            self._captured.clear()
            self._watch, self._readable = Watch(self._model, values=False), readable(self._model)[0]
        if not self._readable:
            return None
        shape = input_ids.shape
        if shape not in self._captured:
            self._captured[shape] = self._capture(input_ids, targets)
        captured = self._captured[shape]
        if captured is None:
            return None
        before = [parameter.grad for parameter in self._parameters]
        captured.input_ids.copy_(input_ids, non_blocking=True)
        captured.targets.copy_(targets, non_blocking=True)
        captured.normalizer.fill_(normalizer)
        earlier = [(b.clone() if b is g else b, g) for b, g in zip(before, captured.gradients) if b is not None]
        captured.graph.replay()
        if earlier:
            torch._foreach_add_([g for _, g in earlier], [b for b, _ in earlier])
        for parameter, gradient in zip(self._parameters, captured.gradients):
            parameter.grad = gradient
        return captured.loss.clone()

    def _capture(self, input_ids: Tensor, targets: Tensor) -> _Captured | None:
        generator = torch.cuda.default_generators[input_ids.device.index]
        before = generator.clone_state()
        try:
            captured = _Captured(self._model, self._autocast, input_ids, targets)
            free, whole = torch.cuda.mem_get_info(self._model.device)
            if free < SPARE * whole:
                raise RuntimeError(_("too little memory is left beside it"))
            return captured
        except Exception as error:  # noqa: BLE001 - whatever cannot be captured can still be launched step by step
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            warn_once(
                f"graphed pass {reason}",
                _("training without a CUDA graph, which is slower: {reason}").format(reason=reason),
            )
            # a capture that broke off leaves the generator waiting for its end: no random number could be drawn any more
            generator.graphsafe_set_state(before)
            torch.cuda.empty_cache()
            return None


class _Captured:
    """input_ids, targets: (rows, length); normalizer, loss: scalars; gradients: of the parameters. All at fixed addresses."""

    def __init__(
        self, model: LanguageModel, autocast: Callable[[], AbstractContextManager[Any]], input_ids: Tensor, targets: Tensor
    ) -> None:
        self.input_ids, self.targets = input_ids.clone(), targets.clone()
        self.normalizer = torch.ones((), dtype=torch.float32, device=input_ids.device)
        # Leaves of their own over the parameters' memory. While a user holds an earlier loss, autograd adds the parameters' gradients
        # on the stream of that pass, which is not the one that is captured.
        names = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in names}

        def run() -> Tensor:
            for leaf in leaves.values():
                leaf.grad = None
            options = {"targets": self.targets, "normalizer": self.normalizer}
            with autocast():
                loss = functional_call(model, leaves, (self.input_ids,), options).loss
            loss.backward()
            return loss.detach()

        stream = torch.cuda.Stream(input_ids.device)
        stream.wait_stream(torch.cuda.current_stream(input_ids.device))
        with torch.cuda.stream(stream):
            for __ in range(2):  # compilation, self-checks and library handles must not be captured
                run()
            for leaf in leaves.values():
                leaf.grad = None
        torch.cuda.current_stream(input_ids.device).wait_stream(stream)
        torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = run()
        gradients = [leaf.grad for leaf in leaves.values()]
        if any(gradient is None for gradient in gradients):
            raise RuntimeError(_("a parameter takes no part in the loss"))
        self.gradients: list[Tensor] = [gradient for gradient in gradients if gradient is not None]
