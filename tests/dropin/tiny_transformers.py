"""Tiny random models of transformers, and everything of them that the drop-in must not change.

As a program: ``python -m tests.dropin.tiny_transformers with|without FILE`` saves the results with or without the drop-in.
"""

from __future__ import annotations

import sys
from typing import Any

_MAMBA1 = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 64, "pad_token_id": 0}
_SHARED = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.2,  # with the default the mixers would hardly show in the logits
}  # fmt: skip
_BAMBA = {
    **_SHARED, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8,
    "mamba_expand": 2,
}  # fmt: skip

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", _MAMBA1),
    "falcon_mamba": ("FalconMamba", _MAMBA1),
    "mamba2": (
        "Mamba2",
        {
            "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 64, "num_heads": 8, "head_dim": 8,
            "n_groups": 2, "chunk_size": 8, "expand": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        },
    ),
    "jamba": (
        "Jamba",
        {
            **_SHARED, "mamba_d_state": 8, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
            "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2, "num_experts_per_tok": 1,
        },
    ),
    "bamba": ("Bamba", {**_BAMBA, "attn_layer_indices": [1]}),
    "zamba2": (
        "Zamba2",
        {
            **_SHARED, "mamba_d_state": 8, "mamba_ngroups": 2, "n_mamba_heads": 8, "mamba_headdim": 8, "chunk_size": 8,
            "layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1, "num_key_value_heads": 4, "adapter_rank": 4,
        },
    ),
    "nemotron_h": (
        "NemotronH",
        {
            **_SHARED, "hybrid_override_pattern": "M*M-", "num_hidden_layers": 4, "mamba_num_heads": 8, "mamba_head_dim": 8,
            "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8, "head_dim": 8,
        },
    ),
    "falcon_h1": (
        "FalconH1",
        {**_SHARED, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 2,
         "mamba_chunk_size": 8},
    ),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {**_BAMBA, "layers_block_type": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1,
         "shared_intermediate_size": 48},
    ),
}  # fmt: skip


def build(family: str) -> Any:
    """The model in training mode, the same weights in every process."""
    import torch
    import transformers

    name, options = CONFIGS[family]
    torch.manual_seed(0)
    config = getattr(transformers, name + "Config")(**options)
    return getattr(transformers, name + "ForCausalLM")(config).float()


def results(family: str) -> dict[str, Any]:
    """Logits, losses, gradients, generated tokens; the same inputs in every process."""
    import torch

    model = build(family)
    ids = torch.randint(3, 64, (2, 21), generator=torch.Generator().manual_seed(1))
    padded = ids.clone()
    padded[0, :6] = 0
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    found: dict[str, Any] = {}
    torch.manual_seed(2)
    model.train()
    out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    found["train logits"], found["train loss"] = out.logits.detach(), out.loss.detach()
    found["gradients"] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.eval()
    with torch.no_grad():
        found["prefill"] = model(input_ids=ids).logits
        found["left padding"] = model(input_ids=padded, attention_mask=mask).logits[mask.bool()]
    for name, tokens, attended in (("greedy", ids, torch.ones_like(ids)), ("greedy, left padding", padded, mask)):
        generated = model.generate(
            tokens, attention_mask=attended, max_new_tokens=6, do_sample=False, return_dict_in_generate=True,
            output_logits=True, eos_token_id=None,
        )  # fmt: skip
        found[name], found[name + " logits"] = generated.sequences, torch.stack(generated.logits)
    return found


def main(mode: str, file: str) -> None:
    if mode == "with":
        import anymamba

        anymamba.dropin()
    import torch

    torch.set_num_threads(1)
    everything: dict[str, Any] = {}
    for family in CONFIGS:
        if mode == "with":
            from anymamba.dropin import counting

            counting.forget()
        everything[family] = {"results": results(family)}
        if mode == "with":
            import anymamba

            status = anymamba.dropin.status()
            everything[family].update({key: status[key] for key in ("calls", "served", "fell_back")})
    torch.save(everything, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
