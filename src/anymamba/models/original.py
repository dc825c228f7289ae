"""The original forms of checkpoints: state-spaces/mamba-*, mamba2-*, mamba3-* and Codestral, as configurations and tensor names of ours.

Field names: mamba_ssm ``MambaConfig`` and the ``__init__`` of ``Mamba``, ``Mamba2`` and ``Mamba3``; Codestral's params.json.
"""

from __future__ import annotations

from typing import Any

from anymamba.errors import UnsupportedError
from anymamba.language import say
from anymamba.models.config import Config
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.mamba3 import Mamba3Config


def is_original(values: dict[str, Any]) -> bool:
    """A config.json of mamba_ssm."""
    return "d_model" in values and "n_layer" in values


def from_original(values: dict[str, Any]) -> Config:
    """Raises UnsupportedError for models that have more than Mamba mixers in them, naming the field."""
    ssm = dict(values.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    _refuse("attn_layer_idx", values.get("attn_layer_idx"), [None, []])
    if layer != "Mamba3":
        _refuse("d_intermediate", values.get("d_intermediate"), [None, 0])
    _refuse("rms_norm", values.get("rms_norm", True), [True])
    _refuse("ssm_cfg.layer", layer, ["Mamba1", "Mamba2", "Mamba3"])
    size = int(values["d_model"])
    shared: dict[str, Any] = {
        "hidden_size": size,
        "num_hidden_layers": int(values["n_layer"]),
        "vocab_size": _padded(int(values.get("vocab_size", 50277)), int(values.get("pad_vocab_size_multiple", 8))),
        "expand": ssm.get("expand", 2),
        "conv_kernel": ssm.get("d_conv", 4),
        "use_bias": ssm.get("bias", False),
        "use_conv_bias": ssm.get("conv_bias", True),
        "residual_in_fp32": values.get("residual_in_fp32", True),
        "tie_word_embeddings": values.get("tie_embeddings", True),
        "time_step_min": ssm.get("dt_min", 0.001),
        "time_step_max": ssm.get("dt_max", 0.1),
        "time_step_floor": ssm.get("dt_init_floor", 1e-4),
        # <|endoftext|> of GPT-NeoX's tokenizer, with which all of them were trained
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if layer == "Mamba1":
        return MambaConfig(
            **shared,
            state_size=ssm.get("d_state", 16),
            time_step_rank=ssm.get("dt_rank", "auto"),
            time_step_scale=ssm.get("dt_scale", 1.0),
            time_step_init_scheme=ssm.get("dt_init", "random"),
        )
    if layer == "Mamba3":
        shared.update(bos_token_id=None, eos_token_id=None, pad_token_id=None)  # its tokenizer is another
        names = {"d_state": "state_size", "headdim": "head_dim", "ngroups": "n_groups", "A_floor": "a_floor"}
        same = ("rope_fraction", "is_mimo", "mimo_rank", "is_outproj_norm", "chunk_size", "a_activation")
        given: dict[str, Any] = {str(names.get(name, name)): value for name, value in ssm.items() if name in names or name in same}
        given = {"a_activation": None, **given}  # mamba_ssm's own does not say
        return Mamba3Config(**shared, **given, intermediate_size=int(values.get("d_intermediate") or 0))
    _refuse("ssm_cfg.D_has_hdim", ssm.get("D_has_hdim", False), [False])
    _refuse("ssm_cfg.norm_before_gate", ssm.get("norm_before_gate", False), [False])
    _refuse("ssm_cfg.rmsnorm", ssm.get("rmsnorm", True), [True])
    _refuse("ssm_cfg.d_ssm", ssm.get("d_ssm"), [None, shared["expand"] * size])
    headdim = ssm.get("headdim", 64)
    return Mamba2Config(
        **shared,
        state_size=ssm.get("d_state", 128),
        head_dim=headdim,
        num_heads=shared["expand"] * size // headdim,
        n_groups=ssm.get("ngroups", 1),
        chunk_size=ssm.get("chunk_size", 256),
        time_step_limit=tuple(ssm.get("dt_limit", Mamba2Config.time_step_limit)),
    )


def from_codestral(params: dict[str, Any]) -> Config:
    """The content of params.json: a Mamba-2 with mamba_ssm's defaults where it says nothing."""
    _refuse("params.json: rms_norm", params.get("rms_norm", True), [True])
    size = int(params["dim"])
    return Mamba2Config(
        hidden_size=size,
        num_hidden_layers=int(params["n_layers"]),
        vocab_size=_padded(int(params["vocab_size"]), int(params.get("pad_vocab_size_multiple", 1))),
        num_heads=2 * size // 64,
        head_dim=64,
        n_groups=int(params.get("n_groups", 1)),
        residual_in_fp32=params.get("residual_in_fp32", True),
        tie_word_embeddings=params.get("tie_embeddings", False),
    )


def rename(name: str) -> str:
    """A tensor's name in any of the forms -> transformers' name, which is ours."""
    name = name.removeprefix("model.")
    if name.startswith(("layers.", "norm_f.", "embeddings.", "embedding.")):  # a trunk saved without its head
        name = "backbone." + name
    return name.replace("backbone.embedding.", "backbone.embeddings.", 1)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _refuse(name: str, value: Any, allowed: list[Any]) -> None:
    if value not in allowed:
        raise UnsupportedError(
            "checkpoint",
            say(f"{name} = {value!r} is not supported", f"不支持 {name} = {value!r}"),
            why=say(
                "anymamba has models of Mamba-1, Mamba-2 or Mamba-3 mixers alone, with RMS norms",
                "anymamba 仅支持由 Mamba-1、Mamba-2 或 Mamba-3 与 RMS 归一化组成的模型",
            ),
        )
