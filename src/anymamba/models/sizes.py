"""The one dial: a size by name -> a configuration. The named sizes from 130m on are those of the published models
(Mamba paper, table 12; state-spaces/mamba-* and mamba2-*)."""

from __future__ import annotations

from typing import Any

import torch

from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models import families
from anymamba.models.config import Config

SIZES: dict[str, tuple[int, int]] = {
    "tiny": (256, 6),
    "small": (512, 12),
    "130m": (768, 24),
    "370m": (1024, 48),
    "790m": (1536, 48),
    "1.4b": (2048, 48),
    "2.8b": (2560, 64),
}
"""name -> (hidden_size, num_hidden_layers), for families whose sizes are those of the papers"""

def config_of_size(
    size: str,
    family: str = "mamba",
    vocab_size: int = 50280,
    eos_token_id: int | None = 0,
    bos_token_id: int | None = 0,
    pad_token_id: int | None = 0,
) -> Config:
    """vocab_size is rounded up to a multiple of the family's. Raises ArgumentError for an unknown name, listing those there are."""
    spec = families.family(family)
    if size not in spec.sizes:
        raise ArgumentError(
            "usage",
            _("there is no model size {size!r} of {family}").format(size=size, family=family),
            fix=_("known: ") + ", ".join(spec.sizes),
        )
    ids: dict[str, Any] = {"eos_token_id": eos_token_id, "bos_token_id": bos_token_id, "pad_token_id": pad_token_id}
    rows = -(-vocab_size // spec.vocabulary_multiple) * spec.vocabulary_multiple
    config: Config = spec.config(vocab_size=rows, **spec.sizes[size], **ids)
    return config


def parameters_of(config: Config) -> int:
    """How many parameters a model of this configuration has; tied ones count once. Nothing is allocated."""
    from anymamba.models.lm import LanguageModel

    with torch.device("meta"):
        model = LanguageModel(config)
    return sum(parameter.numel() for parameter in model.parameters())
