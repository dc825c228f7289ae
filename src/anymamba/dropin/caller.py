"""The module whose ``forward`` called a function of the packages with its raw weights, and what attached to it the weights do not show.

mamba_inner_fn and mamba_split_conv1d_scan_combined get tensors in place of modules: an adapter, a hook or a wrapper on x_proj or out_proj
is passed over, and padding cannot be seen. Upstream has that fault. The caller knows better, and it is a frame or two above us: its
``self`` has the very parameters that came as arguments. Read only; nothing is patched, so programs that we have never seen are served too.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anymamba.errors import warn_once
from anymamba.language import _
from anymamba.models import plain

_FRAMES = 8
"""transformers has two frames between a mixer's forward and the function, the counter one; a few decorators more are looked through."""


class Caller(NamedTuple):
    """mixer: the module. modules: argument's name -> the module whose weight it is. mask: the mixer's own argument (batch, length), or
    None."""

    mixer: nn.Module
    modules: dict[str, nn.Module]
    mask: Tensor | None

    @property
    def of_transformers(self) -> bool:
        return type(self.mixer).__module__.startswith("transformers.")


def caller(**weights: Tensor | None) -> Caller | None:
    """Whoever called with these weights (argument's name -> tensor), or None: no module's forward did, or it cannot be seen, as in a
    compiled graph."""
    if torch.compiler.is_compiling():
        return None
    given_weights = {name: weight for name, weight in weights.items() if weight is not None}
    frame = sys._getframe(1)
    for __ in range(_FRAMES):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        names = frame.f_code.co_varnames
        if not names or names[0] != "self":
            continue
        local_names = frame.f_locals
        mixer = local_names.get("self")
        if isinstance(mixer, nn.Module):
            modules = _owners(mixer, given_weights)
            if modules:
                return Caller(mixer, modules, _mask(local_names))
    return None


def unread_biases(modules: dict[str, nn.Module], biases: dict[str, Tensor | None]) -> dict[str, str]:
    """Argument's name -> why the module has to be called, for each with a bias that did not come with its weight. biases: what came."""
    unread = [name for name, module in modules.items() if getattr(module, "bias", None) is not None and biases.get(name) is None]
    return dict.fromkeys(unread, bias_unread()) if unread else {}


def bias_unread() -> str:
    return _("it has a bias that the fused function does not take")


def instead(calling: Caller, given: dict[str, Any]) -> dict[str, Any]:
    """What a fused function is told beside its weights (given: what it was told already): modules to call in place of them, with the
    reason said once, and the padding of a mixer of transformers."""
    projections = {name: module for name, module in calling.modules.items() if name == "x_proj"}  # nobody can add its bias later
    reasons = unread_biases(projections, {}) | obstacles(calling.modules)
    say_once(calling.mixer, reasons)
    replacements: dict[str, Any] = {name: calling.modules[name] for name in reasons}
    if calling.of_transformers and "mask" not in given:
        replacements["mask"] = calling.mask
    return replacements


def obstacles(modules: dict[str, nn.Module]) -> dict[str, str]:
    """Argument's name -> why the module has to be called, for each that is more than its weights."""
    reasons = {name: obstacle(module) for name, module in modules.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def obstacle(module: nn.Module) -> str:
    """Why calling this module may be more than applying its weights; empty when it is not. A norm's class is its caller's own affair."""
    if isinstance(module, (nn.Linear, nn.Conv1d)) or "parametrizations" in module._modules:
        return plain.obstacle(module)
    inner = [name for name, child in module._modules.items() if child is not None]
    if inner:  # an adapter around a base layer; the norms of the mixers have no parts
        return _("it is a {kind}").format(kind=type(module).__name__)
    return _("its forward was replaced") if "forward" in module.__dict__ else plain.hooked(module)


def say_once(mixer: nn.Module, reasons: dict[str, str]) -> None:
    """One line, once a kind of mixer and reason: which modules are called instead of the fused function."""
    kind = type(mixer).__name__
    for name, reason in reasons.items():
        warn_once(
            f"{kind}:{name}:{reason}",
            _(
                "{kind} runs in parts, not fused: {name}: {reason}. Everything attached to it takes part; the result "
                "is the same as without the drop-in"
            ).format(kind=kind, name=name, reason=reason),
        )


def _owners(mixer: nn.Module, weights: dict[str, Tensor]) -> dict[str, nn.Module]:
    """Argument's name -> the direct child of the mixer whose ``weight`` is that tensor."""
    owners: dict[str, nn.Module] = {}
    for child in mixer._modules.values():
        if child is None or "parametrizations" in child._modules:  # its weight is computed anew each time it is asked for
            continue
        own: Any = getattr(child, "weight", None)
        for name, weight in weights.items():
            if own is weight:
                owners[name] = child
    return owners


def _mask(found: dict[str, Any]) -> Tensor | None:
    mask = found.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
