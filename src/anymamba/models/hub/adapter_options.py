"""Options of PEFT's LoraConfig: those that change what an adapter computes and are not known here are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anymamba.errors import UnsupportedError
from anymamba.language import _

SUPPORTED = frozenset(
    ("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")
    + ("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora")
    + ("layers_to_transform", "layers_pattern", "init_lora_weights", "eva_config", "loftq_config", "corda_config", "lora_ga_config")
    + ("qalora_group_size", "megatron_core", "ensure_weight_tying")
)
"""Read, or without a meaning once the tensors of every layer are there."""

CHANGE_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Values of init_lora_weights with which training changed the weights of the base too."""


def refuse_unsupported(settings: Mapping[str, Any], where: Path) -> None:
    """Raises UnsupportedError naming each option that is set and that nothing here computes."""
    if settings.get("peft_type") != "LORA":
        raise UnsupportedError(
            "adapter",
            _("{where}: peft_type {kind!r} is not supported").format(where=where, kind=settings.get("peft_type")),
            fix=_("known: ") + "LORA",
        )
    wrong = [
        f"{name}={value!r}" for name, value in settings.items() if name not in SUPPORTED and value not in (None, False, "none", [], {}, "")
    ]
    how = settings.get("init_lora_weights")
    if isinstance(how, str) and how.lower().startswith(CHANGE_THE_BASE):
        wrong.append(f"init_lora_weights={how!r}")
    if wrong:
        raise UnsupportedError(
            "adapter",
            _("{where}: these options of PEFT are not supported: {options}").format(where=where, options=", ".join(wrong)),
            fix=_("merge the adapter with PEFT (merge_and_unload) and save the model"),
        )
