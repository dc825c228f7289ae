"""Tiny checkpoints made by transformers itself, one for each family and for the options that change the computation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from anymamba.models import hub
from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config

SMALL = {"hidden_size": 24, "vocab_size": 53, "num_hidden_layers": 2, "state_size": 5}
TWO = {
    "hidden_size": 24,
    "vocab_size": 53,
    "num_hidden_layers": 2,
    "state_size": 6,
    "head_dim": 6,
    "num_heads": 8,
    "chunk_size": 8,
}

VARIANTS: dict[str, tuple[str, dict]] = {
    "mamba": ("Mamba", SMALL),
    "mamba-untied-biased": ("Mamba", {**SMALL, "tie_word_embeddings": False, "use_bias": True, "conv_kernel": 3}),
    "mamba-no-conv-bias": (
        "Mamba",
        {**SMALL, "use_conv_bias": False, "residual_in_fp32": False, "time_step_rank": 3, "expand": 3},
    ),
    "mamba2": ("Mamba2", {**TWO, "n_groups": 1}),
    "mamba2-groups-tied": ("Mamba2", {**TWO, "n_groups": 4, "tie_word_embeddings": True, "use_bias": True}),
    "mamba2-odd": (
        "Mamba2",
        {
            **TWO,
            "n_groups": 2,
            "head_dim": 16,
            "num_heads": 3 * 2,
            "hidden_size": 48,
            "conv_kernel": 2,
            "chunk_size": 7,
        },
    ),
    "falcon_mamba": ("FalconMamba", SMALL),
    "falcon_mamba-untied": ("FalconMamba", {**SMALL, "tie_word_embeddings": False, "mixer_rms_eps": 1e-3}),
}


CONFIGS = {
    "mamba": MambaConfig(61, 24, 5, 2),
    "falcon_mamba": FalconMambaConfig(61, 24, 5, 2),
    "mamba2": Mamba2Config(61, 24, 6, 2, num_heads=6, head_dim=8, n_groups=2, chunk_size=8),
    "mamba2 with limits": Mamba2Config(61, 24, 6, 2, num_heads=6, head_dim=8, n_groups=1, time_step_limit=(0.01, 0.05)),
}


def make(variant: str) -> transformers.PreTrainedModel:
    """Initialised by transformers, then everything that starts as a constant is made random, so that nothing hides."""
    family, options = VARIANTS[variant]
    torch.manual_seed(sum(map(ord, variant)))
    config = getattr(transformers, family + "Config")(**options)
    model = getattr(transformers, family + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith((".D", "bias")) and "dt" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[transformers.PreTrainedModel, Path]]:
    """variant -> (transformers' model, the folder that it saved)."""
    made = {}
    for variant in VARIANTS:
        model = make(variant)
        folder = tmp_path_factory.mktemp(variant)
        model.save_pretrained(folder)
        made[variant] = model, folder
    return made


@pytest.fixture(params=VARIANTS)
def pair(request: pytest.FixtureRequest, peers: dict) -> tuple[transformers.PreTrainedModel, LanguageModel]:
    """transformers' model and ours, loaded from its folder."""
    peer, folder = peers[request.param]
    return peer.eval(), hub.load(folder)


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """One of ours with random parameters, every layer of which matters."""
    torch.manual_seed(3)
    model = LanguageModel(CONFIGS[request.param]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
