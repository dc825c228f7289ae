"""``mamba_ssm.mamba_inner_fn``, the name that transformers resolves first; anymamba's own file, not in upstream's tree."""

from __future__ import annotations

import inspect
from typing import Any

from .selective_scan_interface import mamba_inner_fn as fused

_signature = inspect.signature(fused)
_DT_NORM = list(_signature.parameters).index("dt_rms_weight")


def mamba_inner_fn(*arguments: Any, **keywords: Any) -> Any:
    """mamba_inner_fn, or None ("not handled", the contract of transformers) where dt_rms_weight is given.

    FalconMamba in transformers normalises dt before its projection, mamba_ssm after it: None lets the model's own order stand.
    ``mamba_ssm.ops.selective_scan_interface.mamba_inner_fn`` has mamba_ssm's order.
    """
    given = arguments[_DT_NORM] if len(arguments) > _DT_NORM else keywords.get("dt_rms_weight")
    return None if given is not None else fused(*arguments, **keywords)


mamba_inner_fn.__signature__ = _signature  # type: ignore[attr-defined]
