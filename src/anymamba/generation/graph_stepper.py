"""One token as a replayed CUDA graph: the launches of a step cost far more than its kernels at small batch sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.language import say
from anymamba.models.cache import Cache
from anymamba.models.lm import LanguageModel


def supports(model: LanguageModel, cache: Cache) -> tuple[bool, str]:
    if model.device.type != "cuda":
        return False, say("CUDA graphs need a CUDA or ROCm device", "CUDA graph 需要 CUDA 或 ROCm 设备")
    return True, say("the step is replayed as a CUDA graph", "以 CUDA graph 重放单步")


def make(model: LanguageModel, cache: Cache, why: str) -> GraphStepper:
    return GraphStepper(model, cache, why)


class GraphStepper:
    """The model's step, captured once over fixed addresses: ids go in, logits and the cache's tensors change in place."""

    name = "cuda graph"

    def __init__(self, model: LanguageModel, cache: Cache, why: str) -> None:
        self.why = why
        self._cache = cache
        self._ids = torch.zeros(cache.batch, 1, dtype=torch.long, device=model.device)
        before = [(layer.conv.clone(), layer.ssm.clone(), layer.used) for layer in cache.layers]
        tokens = cache.tokens
        stream = torch.cuda.Stream(model.device)
        stream.wait_stream(torch.cuda.current_stream(model.device))
        with torch.cuda.stream(stream):
            # warm-up: JIT compilation, autotuning and library handles must not be captured
            for _ in range(2):
                model(self._ids, cache=cache)
        torch.cuda.current_stream(model.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            logits = model(self._ids, cache=cache).logits
            assert logits is not None
            self._logits = logits[:, -1].float()
        for layer, (conv, ssm, used) in zip(cache.layers, before):
            layer.conv.copy_(conv)
            layer.ssm.copy_(ssm)
            layer.used = used
        cache.tokens = tokens

    def step(self, ids: Tensor) -> Tensor:
        self._ids.copy_(ids[:, None])
        self._graph.replay()
        self._cache.advance(1)
        return self._logits

    def write_back(self) -> None:
        """The graph changes the cache's own tensors."""
