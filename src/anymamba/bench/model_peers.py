"""The same language models run by transformers, by its sequential path or with mambapy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from anymamba.backends.machine import library_version
from anymamba.bench import peers
from anymamba.language import _
from anymamba.models.config import Config
from anymamba.models.families import fused_steps
from anymamba.models.trunk.fused_step import ByChannel


def by_channel(config: Config) -> bool:
    """Whether the scan is Mamba-1's: transformers loops over its tokens, and mambapy has it."""
    return any(isinstance(step, ByChannel) for step in fused_steps(config) or ())


def names(config: Config) -> tuple[str, ...]:
    """Who can run such a model."""
    return (peers.TRANSFORMERS, peers.MAMBAPY) if by_channel(config) else (peers.TRANSFORMERS,)


def missing(name: str) -> str | None:
    """Why this peer cannot run here, or None."""
    if name == peers.MAMBAPY and library_version("mambapy") is None:
        return _("mambapy is not installed")
    return peers.sequential_transformers()


def make(name: str, config: Config, device: torch.device) -> Any:
    """A randomly initialised model of transformers with the sizes of ours."""
    import transformers

    peers.quieten_transformers()
    values = {key: value for key, value in config.to_dict().items() if key not in ("architectures", "transformers_version")}
    values.pop("model_type", None)
    model_class = getattr(transformers, config.architecture)
    if by_channel(config):
        values["use_mambapy"] = name == peers.MAMBAPY
    model = model_class(model_class.config_class(**values))
    return model.to(device)


def decoder(model: Any, prompt: torch.Tensor, steps: int) -> Callable[[], None]:
    """Reads the prompt once, then each call writes so many tokens, greedily."""
    model.eval()
    with torch.no_grad():
        out = model(prompt, use_cache=True)
    state = {"cache": out.cache_params, "ids": out.logits[:, -1:].argmax(-1)}

    def run() -> None:
        with torch.no_grad():
            for __ in range(steps):
                out = model(state["ids"], cache_params=state["cache"], use_cache=True)
                state["ids"], state["cache"] = out.logits[:, -1:].argmax(-1), out.cache_params

    return run
