"""The released hybrids: configurations of their sizes build models with the number of parameters that their names and cards give.
Nothing is allocated. Depth, width, heads and states of Falcon-H1 are those of transformers' documentation, widths and patterns of
Nemotron-H and Nemotron 3 those of public configuration files; the others were written down without the file at hand, and a wrong
one shows only where it changes the number. Left out: Falcon-H1-3B, for want of a source for the width of its MLP, and Zamba2-2.7B,
for want of its exact number."""

from __future__ import annotations

from typing import Any

import pytest

from anymamba.models import families
from anymamba.models.sizes import parameters_of

GRANITE = {
    "model_type": "granitemoehybrid", "vocab_size": 100352, "mamba_d_state": 128, "mamba_d_head": 64, "mamba_n_groups": 1,
    "tie_word_embeddings": True, "position_embedding_type": "nope", "num_local_experts": 0, "num_hidden_layers": 40,
}  # fmt: skip


def granite(attention: list[int], **values: Any) -> dict[str, Any]:
    layers = values.get("num_hidden_layers", 40)
    return {**GRANITE, "layer_types": ["attention" if index in attention else "mamba" for index in range(layers)], **values}


def falcon(layers: int, size: int, width: int, heads: int, kv: int, **values: Any) -> dict[str, Any]:
    return {
        "model_type": "falcon_h1", "num_hidden_layers": layers, "hidden_size": size, "mamba_d_ssm": width, "num_attention_heads": heads,
        "num_key_value_heads": kv, "mamba_rms_norm": False, "mamba_d_state": 256, "head_dim": 128, "mamba_n_groups": 1, **values,
    }  # fmt: skip


def nemotron(pattern: str, size: int, width: int, heads: int, **values: Any) -> dict[str, Any]:
    return {
        "model_type": "nemotron_h", "hybrid_override_pattern": pattern, "num_hidden_layers": len(pattern), "hidden_size": size,
        "intermediate_size": width, "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "ssm_state_size": 128,
        "n_groups": 8, "mamba_head_dim": 64, "vocab_size": 131072, **values,
    }  # fmt: skip


def zamba(before: int, every: int, **values: Any) -> dict[str, Any]:
    layers = values["num_hidden_layers"]
    kinds = ["hybrid" if index >= before and (index - before) % every == 0 else "mamba" for index in range(layers)]
    return {"model_type": "zamba2", "vocab_size": 32000, "layers_block_type": kinds, "num_attention_heads": 32, **values}


FOUR = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
NINE = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
TWELVE = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"
THIRTY = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
JAMBA = {"model_type": "jamba", "vocab_size": 65536, "mamba_d_state": 16}

RELEASED: dict[str, tuple[dict[str, Any], float]] = {
    "granite-4.0-h-350m": (
        granite(
            [10, 13, 17, 27], num_hidden_layers=32, hidden_size=768, num_attention_heads=12, num_key_value_heads=4, mamba_n_heads=48,
            mamba_d_head=32, shared_intermediate_size=2048,
        ),
        0.340e9,
    ),
    "granite-4.0-h-1b": (
        granite(
            [5, 15, 25, 35], hidden_size=1536, num_attention_heads=12, num_key_value_heads=4, mamba_n_heads=48,
            shared_intermediate_size=4096,
        ),
        1.46e9,
    ),
    "granite-4.0-h-micro": (
        granite(
            [5, 15, 25, 35], hidden_size=2048, num_attention_heads=32, num_key_value_heads=8, mamba_n_heads=64,
            shared_intermediate_size=8192,
        ),
        3.19e9,
    ),
    "granite-4.0-h-tiny": (
        granite(
            [5, 15, 25, 35], hidden_size=1536, num_attention_heads=12, num_key_value_heads=4, mamba_n_heads=48, intermediate_size=512,
            num_local_experts=64, num_experts_per_tok=6, shared_intermediate_size=1024,
        ),
        6.94e9,
    ),
    "granite-4.0-h-small": (
        granite(
            [5, 15, 25, 35], hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, mamba_n_heads=128, intermediate_size=768,
            num_local_experts=72, num_experts_per_tok=10, shared_intermediate_size=1536,
        ),
        32.2e9,
    ),
    "Bamba-9B": (
        {
            "model_type": "bamba", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "attn_layer_indices": [9, 18, 27],
            "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "mamba_n_heads": 128, "mamba_d_state": 128,
        },
        9.78e9,
    ),
    "Falcon-H1-0.5B": (
        falcon(
            36, 1024, 1536, 8, 2, head_dim=64, mamba_n_heads=24, mamba_d_state=128, intermediate_size=2048, vocab_size=32784,
            tie_word_embeddings=False,
        ),
        0.521e9,
    ),
    "Falcon-H1-1.5B": (falcon(24, 2048, 3072, 8, 2, mamba_n_heads=48, intermediate_size=4608, vocab_size=65536), 1.55e9),
    "Falcon-H1-1.5B-Deep": (falcon(66, 1280, 1536, 6, 2, mamba_n_heads=24, intermediate_size=3072, vocab_size=65536), 1.55e9),
    "Falcon-H1-7B": (falcon(44, 3072, 3072, 12, 2, mamba_n_heads=24, intermediate_size=12288, vocab_size=130048), 7.59e9),
    "Falcon-H1-34B": (
        falcon(72, 5120, 4096, 20, 4, mamba_n_heads=32, mamba_n_groups=2, intermediate_size=21504, vocab_size=261120), 33.6e9
    ),
    "Nemotron-H-4B": (nemotron(FOUR, 3072, 12288, 32, mamba_num_heads=112), 4.49e9),
    "Nemotron-H-8B": (nemotron(FOUR, 4096, 21504, 32, mamba_num_heads=128), 8.10e9),
    "Nemotron-Nano-9B-v2": (nemotron(NINE, 4480, 15680, 40, mamba_num_heads=128, mamba_head_dim=80), 8.89e9),
    "Nemotron-Nano-12B-v2": (nemotron(TWELVE, 5120, 20480, 40, mamba_num_heads=128, mamba_head_dim=80), 12.3e9),
    "Nemotron-3-Nano-30B-A3B": (
        nemotron(
            THIRTY, 2688, 1856, 32, num_key_value_heads=2, mamba_num_heads=64, n_routed_experts=128, num_experts_per_tok=6,
            moe_intermediate_size=1856, moe_shared_expert_intermediate_size=3712, routed_scaling_factor=2.5,
        ),
        31.6e9,
    ),
    "Zamba2-1.2B": (
        zamba(
            5, 6, num_hidden_layers=38, hidden_size=2048, n_mamba_heads=64, mamba_d_state=128, num_mem_blocks=1,
            use_shared_attention_adapter=True, use_mem_rope=True, intermediate_size=8192,
        ),
        1.22e9,
    ),
    "Zamba2-7B": (
        zamba(
            6, 6, num_hidden_layers=81, hidden_size=3584, n_mamba_heads=112, mamba_ngroups=2, num_mem_blocks=2, use_mem_rope=True,
            intermediate_size=14336,
        ),
        7.36e9,
    ),
    "Jamba-v0.1": (JAMBA, 51.6e9),
    "Jamba-1.5-Large": (
        {
            **JAMBA, "hidden_size": 8192, "num_hidden_layers": 72, "intermediate_size": 24576, "num_attention_heads": 64,
            "num_key_value_heads": 8,
        },
        398e9,
    ),
    "Jamba-Reasoning-3B": (
        {
            **JAMBA, "hidden_size": 2560, "num_hidden_layers": 28, "intermediate_size": 8192, "num_attention_heads": 20,
            "num_key_value_heads": 1, "attn_layer_period": 14, "attn_layer_offset": 7, "num_experts": 1, "tie_word_embeddings": True,
        },
        3.03e9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_the_published_number_of_parameters(name: str) -> None:
    values, published = RELEASED[name]
    config = families.family(values["model_type"]).config.from_dict(values)
    assert parameters_of(config) == pytest.approx(published, rel=0.005)
