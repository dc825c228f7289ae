"""The two fused functions as transformers gets them; anymamba's own file, not in upstream's tree.

By contract with transformers they may return None, "not handled": the mixer then goes its own way in parts, through its modules. They do
so unless each module that they stand for is proven to be nothing but its weights, and they take the padding that the mixer knows of.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from anymamba.dropin import peft_layers
from anymamba.dropin.caller import Caller, caller, obstacle, obstacles, say_once, unread_biases
from anymamba.errors import warn_once
from anymamba.language import _

from .selective_scan_interface import mamba_inner_fn as inner
from .triton.ssd_combined import mamba_split_conv1d_scan_combined as split

_INNER, _SPLIT = inspect.signature(inner), inspect.signature(split)


def mamba_inner_fn(*arguments: Any, **keywords: Any) -> Any:
    """mamba_inner_fn of a Mamba-1 mixer of transformers, or None.

    FalconMamba normalises dt before its projection, mamba_ssm after it: with dt_rms_weight the model's own order stands.
    """
    bound = _INNER.bind_partial(*arguments, **keywords).arguments
    if bound.get("dt_rms_weight") is not None:
        return None
    biases = {"out_proj": bound.get("out_proj_bias")}
    calling = _plain(biases, x_proj=bound["x_proj_weight"], out_proj=bound["out_proj_weight"])
    return None if calling is None else inner(*arguments, mask=calling.mask, **keywords)


def mamba_split_conv1d_scan_combined(*arguments: Any, **keywords: Any) -> Any:
    """mamba_split_conv1d_scan_combined of a Mamba-2 mixer of transformers, or None."""
    bound = _SPLIT.bind_partial(*arguments, **keywords).arguments
    biases = {"out_proj": bound.get("outproj_bias")}
    calling = _plain(biases, norm=bound.get("rmsnorm_weight"), out_proj=bound.get("outproj_weight"))
    return None if calling is None else split(*arguments, mask=calling.mask, **keywords)


mamba_inner_fn.__signature__ = _INNER  # type: ignore[attr-defined]
mamba_split_conv1d_scan_combined.__signature__ = _SPLIT  # type: ignore[attr-defined]


def may_answer_none() -> bool:
    """Does the transformers of this process know the answer None: 5.15 and newer."""
    version = str(getattr(sys.modules.get("transformers"), "__version__", "5.15"))
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) >= (5, 15)


def _plain(biases: dict[str, Tensor | None], **weights: Tensor | None) -> Caller | None:
    """The mixer that calls, if all these weights, and the biases that came with them, are those of modules that do nothing else."""
    if torch.compiler.is_compiling():
        return None  # a graph shows no caller
    calling = caller(**weights)
    if calling is None or not calling.of_transformers:
        return None
    _say_what_is_passed_over(calling.mixer)
    if len(calling.modules) < sum(weight is not None for weight in weights.values()):
        return None
    reasons = unread_biases(calling.modules, biases) | obstacles(calling.modules)
    say_once(calling.mixer, reasons)
    return None if reasons else calling


def _say_what_is_passed_over(mixer: nn.Module) -> None:
    """transformers itself reads the weights of these two, with the drop-in and without it."""
    if global_hooks._has_any_global_hook():
        return  # a counter or a profiler of all modules means none of them in particular
    kind = type(mixer).__name__
    for name in ("conv1d", "dt_proj"):
        child = mixer._modules.get(name)
        if child is None or hasattr(child, "_hf_hook") or "parametrizations" in child._modules or peft_layers.reads_weight(child):
            continue
        reason = obstacle(child)
        if reason:
            warn_once(
                f"passed over:{kind}:{name}:{reason}",
                _(
                    "{kind}.{name}: {reason}. It has no effect: transformers reads the weight of {name} and never "
                    "calls it, without the drop-in too. Put an adapter on in_proj, x_proj or out_proj"
                ).format(kind=kind, name=name, reason=reason),
            )
