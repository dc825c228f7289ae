"""PEFT under the drop-in: adapters on out_proj and dt_proj of transformers' mixers, which it refuses or which would have no effect.

PEFT refuses ``out_proj`` of Mamba types because other fused functions read its weight past the adapter; ours call the module. And
transformers multiplies with ``dt_proj.weight`` in place of calling dt_proj; there that attribute becomes the weight with its adapters in
it, a small matrix, through which gradients pass to A and B. Standard library only until PEFT has been imported.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from anymamba.errors import warn_once
from anymamba.language import _

MODULE = "peft.tuners.tuners_utils"
"""Where PEFT says which layers it takes, and how a layer is replaced."""

_MARK = "_anymamba_weight_is_read"
_FOLDER = Path(__file__).resolve().parent / "packages"


def teach(module: ModuleType) -> None:
    """Changes the loaded module. What this version of PEFT does not have is left alone."""
    if getattr(module, "_anymamba_taught", False):
        return
    module._anymamba_taught = True  # type: ignore[attr-defined]
    refuse = getattr(module, "_check_lora_target_modules_mamba", None)
    if callable(refuse):
        module._check_lora_target_modules_mamba = _lenient(refuse)  # type: ignore[attr-defined]
    tuner, layer = getattr(module, "BaseTuner", None), getattr(module, "BaseTunerLayer", None)
    if hasattr(tuner, "inject_adapter") and isinstance(getattr(layer, "weight", None), property):
        tuner.inject_adapter = _marking(tuner.inject_adapter)  # type: ignore[union-attr]
        layer.weight = _weight(layer.weight)  # type: ignore[union-attr]


def reads_weight(layer: Any) -> bool:
    """Whether transformers reads the weight of this layer of PEFT's, which then has its adapters in it."""
    return bool(layer.__dict__.get(_MARK))


def _lenient(refuse: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(refuse)
    def check(peft_config: Any, model: Any, target_name: str) -> None:
        if target_name != "out_proj" or not _ours():
            refuse(peft_config, model, target_name)

    return check


def _marking(inject: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(inject)
    def injected(self: Any, model: Any, *arguments: Any, **keywords: Any) -> Any:
        result = inject(self, model, *arguments, **keywords)
        for mixer in model.modules():
            layer = mixer._modules.get("dt_proj")
            if layer is not None and hasattr(layer, "base_layer") and type(mixer).__module__.startswith("transformers.models."):
                layer.__dict__[_MARK] = True
        return result

    return injected


def _weight(base: property) -> property:
    def weight(self: Any) -> Any:
        if not self.__dict__.get(_MARK):
            return base.__get__(self)
        from anymamba.models.trunk import adapters

        taken, reason = adapters.low_rank(self)
        if taken is None or any(pair.B.bias is not None for pair in taken.pairs):
            reason = reason or _("its adapter has a bias")
            warn_once(
                f"dt_proj:{reason}",
                _("dt_proj: {reason}. Its adapter has no effect: transformers reads the weight of dt_proj and never calls it").format(
                    reason=reason
                ),
            )
            return base.__get__(self)
        if any(adapters.acts(pair.dropout) for pair in taken.pairs):
            warn_once(
                "dt_proj: dropout",
                _("dt_proj: its adapter acts without dropout, since transformers reads the weight of dt_proj and never calls it"),
            )
        total: Any = taken.base.weight
        for pair in taken.pairs:
            total = total + (pair.scaling * pair.B.weight @ pair.A).to(total.dtype)
        return total

    return property(weight)


def _ours() -> bool:
    """Whether no real package serves transformers in this process."""
    files = (getattr(sys.modules.get(name), "__file__", None) for name in ("mamba_ssm", "causal_conv1d"))
    return all(file is None or _FOLDER in Path(file).resolve().parents for file in files)
