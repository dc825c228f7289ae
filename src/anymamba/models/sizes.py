"""The one dial: a size by name -> a configuration. The named sizes from 130m on are those of the published models
(Mamba paper, table 12; state-spaces/mamba-* and mamba2-*)."""

from __future__ import annotations

from typing import Any

import torch

from anymamba.errors import ArgumentError
from anymamba.language import say
from anymamba.models.config import Config
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.mamba3 import Mamba3Config

SIZES: dict[str, tuple[int, int]] = {
    "tiny": (256, 6),
    "small": (512, 12),
    "130m": (768, 24),
    "370m": (1024, 48),
    "790m": (1536, 48),
    "1.4b": (2048, 48),
    "2.8b": (2560, 64),
}
"""name -> (hidden_size, num_hidden_layers)"""

FAMILIES = "mamba", "mamba2", "mamba3"


def config_of_size(
    size: str,
    family: str = "mamba",
    vocab_size: int = 50280,
    eos_token_id: int | None = 0,
    bos_token_id: int | None = 0,
    pad_token_id: int | None = 0,
) -> Config:
    """vocab_size is rounded up to a multiple of 8 (16 but for mamba), as upstream does. Raises ArgumentError for an unknown name."""
    if size not in SIZES or family not in FAMILIES:
        wrong, known = (size, list(SIZES)) if size not in SIZES else (family, list(FAMILIES))
        raise ArgumentError(
            "usage",
            say(f"there is no model size or family {wrong!r}", f"没有 {wrong!r}"),
            fix=say("known: ", "可选：") + ", ".join(known),
        )
    hidden_size, layers = SIZES[size]
    ids: dict[str, Any] = {"eos_token_id": eos_token_id, "bos_token_id": bos_token_id, "pad_token_id": pad_token_id}
    if family == "mamba":
        return MambaConfig(
            vocab_size=_round_up(vocab_size, 8), hidden_size=hidden_size, num_hidden_layers=layers, **ids
        )
    headdim = 64
    if family == "mamba3":  # half the layers, each with an MLP: mixers and gated MLPs alternate (Mamba-3, section 3)
        return Mamba3Config(
            vocab_size=_round_up(vocab_size, 16),
            hidden_size=hidden_size,
            num_hidden_layers=layers // 2,
            head_dim=headdim,
            intermediate_size=2 * hidden_size,
            **ids,
        )
    return Mamba2Config(
        vocab_size=_round_up(vocab_size, 16),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        head_dim=headdim,
        num_heads=2 * hidden_size // headdim,
        n_groups=1,
        tie_word_embeddings=True,
        **ids,
    )


def parameters_of(config: Config) -> int:
    """How many parameters a model of this configuration has; tied ones count once. Nothing is allocated."""
    from anymamba.models.lm import LanguageModel

    with torch.device("meta"):
        model = LanguageModel(config)
    return sum(parameter.numel() for parameter in model.parameters())


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
