"""Hybrids against transformers' on small random checkpoints that transformers made: logits, loss, gradients; whole, by steps, in pieces,
padded; greedy text; both directions of saving; states on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close

from anymamba.generation import engine
from anymamba.models import hub
from anymamba.models.lm import LanguageModel

CLOSE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-4}
LENGTH = 23

SSM = {
    "mamba_n_heads": 6, "mamba_d_head": 8, "mamba_d_state": 6, "mamba_expand": 2, "mamba_d_conv": 4, "mamba_chunk_size": 8,
    "hidden_size": 24, "vocab_size": 53, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
GRANITE = {
    **SSM, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 0,
    "shared_intermediate_size": 20, "intermediate_size": 12, "embedding_multiplier": 3.0, "logits_scaling": 2.5,
    "residual_multiplier": 0.6, "attention_multiplier": 0.3,
}  # fmt: skip
BAMBA = {**SSM, "hidden_size": 32, "mamba_n_heads": 8, "num_hidden_layers": 3, "attn_layer_indices": [1], "intermediate_size": 20}
NEMOTRON = {
    "hidden_size": 24, "vocab_size": 53, "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "intermediate_size": 20, "ssm_state_size": 6,
    "mamba_num_heads": 6, "mamba_head_dim": 8, "n_groups": 2, "chunk_size": 8, "n_routed_experts": 6, "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 18, "routed_scaling_factor": 2.5, "time_step_min": 0.01,
}  # fmt: skip
JAMBA = {
    "hidden_size": 24, "vocab_size": 53, "num_hidden_layers": 4, "intermediate_size": 16, "num_attention_heads": 4,
    "num_key_value_heads": 2, "mamba_d_state": 5, "num_experts": 4, "attn_layer_period": 3, "attn_layer_offset": 1,
}  # fmt: skip
ZAMBA2 = {
    "hidden_size": 24, "vocab_size": 53, "num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
    "num_attention_heads": 4, "mamba_d_state": 6, "n_mamba_heads": 6, "intermediate_size": 16, "adapter_rank": 4, "chunk_size": 8,
    "time_step_min": 0.01,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 900.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "granite-dense": ("GraniteMoeHybrid", {**GRANITE, "tie_word_embeddings": True}),
    "granite-moe-rope": (
        "GraniteMoeHybrid",
        {**GRANITE, "num_local_experts": 5, "num_experts_per_tok": 2, "position_embedding_type": "rope", "mamba_n_groups": 3},
    ),
    "granite-biases-yarn": (
        "GraniteMoeHybrid",
        {
            **GRANITE, "attention_bias": True, "mamba_conv_bias": False, "position_embedding_type": "rope", "mamba_d_conv": 3,
            "rope_parameters": YARN, "max_position_embeddings": 32, "num_key_value_heads": 4, "layer_types": ["attention", "mamba"],
            "num_hidden_layers": 2, "time_step_limit": (0.02, 0.9),
        },
    ),
    "granite-mamba-alone": ("GraniteMoeHybrid", {**GRANITE, "layer_types": ["mamba"], "num_hidden_layers": 1}),
    "granite-attention-alone": (
        "GraniteMoeHybrid",
        {**GRANITE, "layer_types": ["attention"], "num_hidden_layers": 1, "num_local_experts": 3, "num_key_value_heads": 1},
    ),
    "bamba": ("Bamba", BAMBA),
    "bamba-groups-biases": (
        "Bamba",
        {
            **BAMBA, "mamba_n_groups": 2, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
            "attn_layer_indices": [0, 2], "rope_parameters": {**LLAMA3, "partial_rotary_factor": 0.5}, "hidden_size": 48,
            "mamba_n_heads": 12,
        },
    ),
    "falcon-h1": (
        "FalconH1",
        {
            **SSM, "num_hidden_layers": 2, "mamba_d_ssm": 48, "intermediate_size": 20, "lm_head_multiplier": 0.7, "key_multiplier": 0.8,
            "embedding_multiplier": 2.5, "mlp_multipliers": [0.9, 0.6], "attention_out_multiplier": 0.7, "attention_in_multiplier": 1.2,
            "ssm_multipliers": [0.5, 0.7, 1.1, 1.3, 0.8], "ssm_in_multiplier": 1.4, "ssm_out_multiplier": 0.6, "tie_word_embeddings": True,
        },
    ),
    "falcon-h1-norm-groups-biases": (
        "FalconH1",
        {
            **SSM, "num_hidden_layers": 2, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_n_groups": 2, "mamba_rms_norm": True,
            "mamba_norm_before_gate": False, "intermediate_size": 20, "attention_bias": True, "mlp_bias": True, "projectors_bias": True,
            "head_dim": 10, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e11, "factor": 2.0},
        },
    ),
    "falcon-h1-norm-before-gate": (
        "FalconH1",
        {**SSM, "num_hidden_layers": 1, "mamba_d_ssm": 48, "mamba_rms_norm": True, "intermediate_size": 20, "num_key_value_heads": 4},
    ),
    "nemotron": ("NemotronH", NEMOTRON),
    "nemotron-moe": (
        "NemotronH",
        {
            **NEMOTRON, "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"], "n_group": 2, "topk_group": 1,
            "norm_topk_prob": False, "mlp_bias": True, "residual_in_fp32": True,
        },
    ),
    "nemotron-narrow-moe": (
        "NemotronH",
        {**NEMOTRON, "layers_block_type": ["moe", "linear_attention", "full_attention"], "moe_latent_size": 12, "n_groups": 1},
    ),
    "jamba": ("Jamba", JAMBA),
    "jamba-biases-tied": (
        "Jamba",
        {
            **JAMBA, "num_experts": 1, "mamba_proj_bias": True, "mamba_conv_bias": False, "tie_word_embeddings": True,
            "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 0, "mamba_dt_rank": 3,
        },
    ),
    "zamba2": ("Zamba2", ZAMBA2),
    "zamba2-two-blocks-adapters": (
        "Zamba2",
        {
            **ZAMBA2, "num_mem_blocks": 2, "use_shared_attention_adapter": True, "use_mem_rope": True, "mamba_ngroups": 2,
            "layers_block_type": ["hybrid", "linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 4, "add_bias_linear": True,
        },
    ),
    "zamba2-untied": ("Zamba2", {**ZAMBA2, "tie_word_embeddings": False}),
}  # fmt: skip
BIASES = {"mamba_proj_bias", "add_bias_linear"}
MASKS_BEFORE_IN_PROJ = {name for name, (__, options) in VARIANTS.items() if BIASES & options.keys()}
"""transformers zeroes padding before in_proj, whose bias fills it again: there ours is compared with the text alone."""

WITHOUT_CACHE = {"granite-mamba-alone"}
"""transformers cannot continue a text of a hybrid that has no attention layer."""


def make(variant: str) -> transformers.PreTrainedModel:
    """Initialised by transformers, then everything that starts as a constant is made random, so that nothing hides."""
    family, options = VARIANTS[variant]
    torch.manual_seed(sum(map(ord, variant)))
    config = getattr(transformers, family + "Config")(**options)
    model = getattr(transformers, family + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(4)  # away from logits that are all alike
    return model


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    made = {}
    for variant in VARIANTS:
        model = make(variant)
        folder = tmp_path_factory.mktemp(variant)
        model.save_pretrained(folder, max_shard_size="20KB")  # several shards
        made[variant] = model, folder
    return made


@pytest.fixture(params=VARIANTS)
def pair(request: pytest.FixtureRequest, peers: dict[str, tuple[Any, Path]]) -> tuple[Any, LanguageModel, str]:
    peer, folder = peers[request.param]
    return peer.eval(), hub.load(folder), request.param


def ids(rows: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(1, 53, (rows, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def test_logits_whole_and_in_pieces(pair: tuple[Any, LanguageModel, str]) -> None:
    peer, model, __ = pair
    for length in (1, 2, LENGTH):
        assert_close(model(ids(2, length)).logits, peer(ids(2, length), use_cache=False).logits, **CLOSE)
    expected = peer(ids(), use_cache=False).logits
    for cuts in ([1] * LENGTH, [5, 1, 9, 8], [20, 3]):
        cache = model.make_cache(2)
        parts = [model(piece, cache=cache).logits for piece in ids().split(cuts, dim=1)]
        assert_close(torch.cat(parts, 1), expected, **CLOSE)


@torch.no_grad()
def test_padding_changes_nothing(pair: tuple[Any, LanguageModel, str]) -> None:
    """Against transformers on the left; anywhere, and with a state, against the text alone."""
    peer, model, variant = pair
    mask = torch.ones_like(ids())
    mask[0, :6] = 0
    mask[1, :2] = 0
    if variant not in MASKS_BEFORE_IN_PROJ:
        expected = peer(ids(), attention_mask=mask, use_cache=False).logits
        got = model(ids(), attention_mask=mask).logits
        for row, padding in enumerate((6, 2)):
            assert_close(got[row, padding:], expected[row, padding:], **CLOSE)
    mask[1, 11:14] = 0  # and between tokens
    alone = [model(row[keep != 0][None]).logits[0] for row, keep in zip(ids(), mask)]
    cache = model.make_cache(2)
    pieces = [
        model(ids()[:, part], attention_mask=mask[:, part], cache=cache).logits for part in (slice(0, 9), slice(9, 16), slice(16, LENGTH))
    ]
    for got in (model(ids(), attention_mask=mask).logits, torch.cat(pieces, 1)):
        for row, keep in enumerate(mask):
            assert_close(got[row][keep != 0], alone[row], **CLOSE)


def test_loss_and_gradients(pair: tuple[Any, LanguageModel, str]) -> None:
    peer, model, __ = pair
    labels = ids().clone()
    labels[0, 3:9] = -100
    peer.train()
    model.train()
    peer.zero_grad()
    expected = peer(ids(), labels=labels, use_cache=False).loss
    expected.backward()
    loss = model(ids(), labels=labels).loss
    assert loss is not None
    loss.backward()
    assert_close(loss, expected, **CLOSE)
    theirs = gradients(peer)
    ours = gradients_by_saved_name(model)
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        scale = max(1.0, theirs[name].abs().max().item())
        assert_close(gradient / scale, theirs[name] / scale, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def gradients(peer: Any) -> dict[str, torch.Tensor]:
    """By the names in a checkpoint: transformers joins tensors of experts when it loads them."""
    from transformers.core_model_loading import revert_weight_conversion

    named = {name: parameter.grad for name, parameter in peer.named_parameters() if parameter.grad is not None}
    return dict(revert_weight_conversion(peer, named))


def gradients_by_saved_name(model: LanguageModel) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        return hub.saved_tensors(model.config, named)


@torch.no_grad()
def test_greedy_text_of_200_tokens(pair: tuple[Any, LanguageModel, str]) -> None:
    peer, model, variant = pair
    prompt = ids(1, 7)
    caches = variant not in WITHOUT_CACHE
    written = peer.generate(prompt, max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=caches)
    ours = engine.generate(model, prompt, 200, eos=[])
    assert torch.equal(ours, written)


@torch.no_grad()
def test_transformers_loads_ours(pair: tuple[Any, LanguageModel, str], tmp_path: Path) -> None:
    peer, model, __ = pair
    hub.save(model, tmp_path / "ours")
    again, notes = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(peer)
    assert not notes["missing_keys"] and not notes["unexpected_keys"] and not notes["mismatched_keys"]
    assert_close(again.eval()(ids(), use_cache=False).logits, peer(ids(), use_cache=False).logits, rtol=0, atol=0)
    assert_close(hub.load(tmp_path / "ours")(ids()).logits, model(ids()).logits, rtol=0, atol=0)


@torch.no_grad()
def test_a_state_is_saved_and_goes_on(pair: tuple[Any, LanguageModel, str], tmp_path: Path) -> None:
    peer, model, __ = pair
    expected = peer(ids(1), use_cache=False).logits
    cache = model.make_cache(1)
    model(ids(1)[:, :9], cache=cache)
    cache.save(tmp_path / "state.safetensors")
    several = model.make_cache(3)
    several.load(tmp_path / "state.safetensors")
    got = model(ids(1)[:, 9:].expand(3, -1), cache=several).logits
    assert_close(got, expected[:, 9:].expand(3, -1, -1), **CLOSE)


@torch.no_grad()
def test_bfloat16_stays_near_float32(pair: tuple[Any, LanguageModel, str]) -> None:
    __, model, __ = pair
    exact = model(ids()).logits
    rounded = model.to(torch.bfloat16)
    cache = rounded.make_cache(2)
    whole = rounded(ids()).logits.float()
    steps = torch.cat([rounded(piece, cache=cache).logits for piece in ids().split(1, dim=1)], 1).float()
    for got in (whole, steps):
        assert ((got - exact).norm() / exact.norm()).item() < 0.1
