"""decode_step as a model's own step, op by op: on a GPU replayed as a graph, for the launches of a step cost far more than its kernels at
small batch sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.decode_model import OwnStep, Stepper
from anymamba.backends.torch import supports as supports
from anymamba.language import _
from anymamba.reference.decode_step import decode_step as decode_step


def stepper_of(own: OwnStep, graph: bool, why: str) -> tuple[Stepper, str]:
    """The model's own step. graph: nothing but its tensors is read in a step, so it may be captured. why: why there is no fused step.
    Returns the stepper and what went wrong on the way to it, or ""."""
    if not graph:
        return ModelStepper(own, why), ""
    if own.device.type != "cuda":
        reason = _("CUDA graphs need a CUDA or ROCm device")
        return ModelStepper(own, "; ".join(part for part in (why, reason) if part)), ""
    try:
        return GraphStepper(own), ""
    except Exception as error:  # noqa: BLE001 - a capture that fails here must not stop the text
        reason = f"{type(error).__name__}: {error}"
        return ModelStepper(own, "; ".join(part for part in (why, reason) if part)), reason


class ModelStepper:
    """The model's forward pass on one token a row, op by op."""

    name = "model"

    def __init__(self, own: OwnStep, why: str) -> None:
        self.why = why
        self._forward = own.forward

    def step(self, ids: Tensor) -> Tensor:
        return self._forward(ids[:, None])

    def write_back(self) -> None:
        """The model changes the state itself."""


class GraphStepper:
    """The model's step, captured once over fixed addresses: ids go in, logits and the state change in place."""

    name = "cuda graph"

    def __init__(self, own: OwnStep) -> None:
        self.why = _("the step is replayed as a CUDA graph")
        self._advance = own.advance
        self._ids = torch.zeros(own.rows, 1, dtype=torch.long, device=own.device)
        before = [tensor.clone() for tensor in own.state]
        stream = torch.cuda.Stream(own.device)
        stream.wait_stream(torch.cuda.current_stream(own.device))
        with torch.cuda.stream(stream):
            # warm-up: JIT compilation, autotuning and library handles must not be captured
            for __ in range(2):
                own.forward(self._ids)
        torch.cuda.current_stream(own.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = own.forward(self._ids)
        for tensor, value in zip(own.state, before):
            tensor.copy_(value)
        own.rewind()

    def step(self, ids: Tensor) -> Tensor:
        self._ids.copy_(ids[:, None])
        self._graph.replay()
        self._advance(1)
        return self._logits

    def write_back(self) -> None:
        """The graph changes the model's own state."""
