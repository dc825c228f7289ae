"""The form of mamba_ssm's own checkpoints (state-spaces/mamba-*, mamba2-*, mamba3-*): what a family's reader of it shares with the others.

Field names: mamba_ssm ``MambaConfig`` and the ``__init__`` of ``Mamba``, ``Mamba2`` and ``Mamba3``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anymamba.errors import UnsupportedError
from anymamba.language import _
from anymamba.models.config import Config
from anymamba.models.family import OriginalForm


def is_original(values: dict[str, Any]) -> bool:
    """A config.json of mamba_ssm."""
    return "d_model" in values and "n_layer" in values


def layer_of(values: dict[str, Any]) -> Any:
    """The mixer that a config.json of mamba_ssm names."""
    return (values.get("ssm_cfg") or {}).get("layer", "Mamba1")


def state_spaces(layer: str, read: Callable[[dict[str, Any], dict[str, Any]], Config]) -> OriginalForm:
    """The form of mamba_ssm for models of this ``ssm_cfg.layer``. read: (config.json, its ssm_cfg) -> configuration."""

    def config(values: dict[str, Any]) -> Config:
        return read(values, dict(values.get("ssm_cfg") or {}))

    return OriginalForm(layer, "config.json", lambda values: is_original(values) and layer_of(values) == layer, config)


def shared_fields(values: dict[str, Any], ssm: dict[str, Any], mlp: bool = False) -> dict[str, Any]:
    """The fields of ``Config`` from a config.json of mamba_ssm. mlp: whether the family may have an MLP after each mixer.

    Raises UnsupportedError for models that have more than Mamba mixers in them, naming the field.
    """
    refuse("attn_layer_idx", values.get("attn_layer_idx"), [None, []])
    if not mlp:
        refuse("d_intermediate", values.get("d_intermediate"), [None, 0])
    refuse("rms_norm", values.get("rms_norm", True), [True])
    return {
        "hidden_size": int(values["d_model"]),
        "num_hidden_layers": int(values["n_layer"]),
        "vocab_size": padded(int(values.get("vocab_size", 50277)), int(values.get("pad_vocab_size_multiple", 8))),
        "expand": ssm.get("expand", 2),
        "conv_kernel": ssm.get("d_conv", 4),
        "use_bias": ssm.get("bias", False),
        "use_conv_bias": ssm.get("conv_bias", True),
        "residual_in_fp32": values.get("residual_in_fp32", True),
        "tie_word_embeddings": values.get("tie_embeddings", True),
        "time_step_min": ssm.get("dt_min", 0.001),
        "time_step_max": ssm.get("dt_max", 0.1),
        "time_step_floor": ssm.get("dt_init_floor", 1e-4),
        # <|endoftext|> of GPT-NeoX's tokenizer, with which all but Mamba-3 were trained
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def rename(name: str) -> str:
    """A tensor's name in any of the forms -> transformers' name, which is ours."""
    name = name.removeprefix("model.")
    if name.startswith(("layers.", "norm_f.", "embeddings.", "embedding.")):  # a trunk saved without its head
        name = "backbone." + name
    return name.replace("backbone.embedding.", "backbone.embeddings.", 1)


def padded(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def refuse(name: str, value: Any, allowed: list[Any]) -> None:
    """Raises UnsupportedError for a field with another value than those allowed."""
    if value not in allowed:
        raise UnsupportedError(
            "checkpoint",
            _("{name} = {value!r} is not supported").format(name=name, value=value),
            why=_("anymamba has models of Mamba-1, Mamba-2 or Mamba-3 mixers alone, with RMS norms"),
            fix=_("possible: ") + ", ".join(str(one) for one in allowed),
        )
