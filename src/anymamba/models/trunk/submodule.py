"""Calls of a model's own modules, which their owner may have wrapped, replaced or moved: what comes back is checked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymamba.errors import ArgumentError, ArgumentTypeError
from anymamba.language import _
from anymamba.models import plain
from anymamba.models.trunk import adapters


def call(owner: nn.Module, name: str, x: Tensor, width: int | None) -> Tensor:
    """``owner.name(x)``: (..., in) -> (..., width), any width if None, on the device of x.

    Raises ArgumentError or ArgumentTypeError naming the module.
    """
    module = getattr(owner, name)
    if torch.compiler.is_compiling():
        y: Tensor = module(x)
        return y
    moved = "" if type(module) is nn.Linear or plain.hooked(module) else adapters.elsewhere(module, x.device)
    if moved:  # torch multiplies a processor's tensor with one on "meta", and returns what was in memory
        raise _other_device(owner, name, module, x, moved)
    try:
        y = module(x)
    except RuntimeError as error:
        elsewhere = _elsewhere(module, x.device)
        if elsewhere:
            raise _other_device(owner, name, module, x, elsewhere) from error
        raise
    if not isinstance(y, Tensor) or y.shape[:-1] != x.shape[:-1] or (width is not None and y.shape[-1] != width):
        actual = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        expected = (*x.shape[:-1], "*" if width is None else width)
        raise ArgumentError(
            "shape",
            _("{module} gave {value} for an input of {shape}, expected {expected}").format(
                module=_where(owner, name, module), value=actual, shape=tuple(x.shape), expected=expected
            ),
        )
    if y.device != x.device:
        raise _other_device(owner, name, module, x, str(y.device))
    return y


def needs_gradient(module: nn.Module, x: Tensor) -> bool:
    """Whether a backward pass may come through this module."""
    return torch.is_grad_enabled() and (x.requires_grad or any(parameter.requires_grad for parameter in module.parameters()))


def _elsewhere(module: nn.Module, device: torch.device) -> str:
    """The devices of its parameters other than this one."""
    return ", ".join(sorted({str(parameter.device) for parameter in module.parameters() if parameter.device != device}))


def _where(owner: nn.Module, name: str, module: nn.Module) -> str:
    index = getattr(owner, "layer_index", None)
    place = (
        type(owner).__name__
        if index is None
        else _("{owner} of layer {index}").format(owner=type(owner).__name__, index=index)
    )
    return f"{place}: {name} ({type(module).__name__})"


def _other_device(owner: nn.Module, name: str, module: nn.Module, x: Tensor, elsewhere: str) -> ArgumentTypeError:
    return ArgumentTypeError(
        "device",
        _("{module} has parameters on {elsewhere}, its input is on {device}").format(
            module=_where(owner, name, module), elsewhere=elsewhere, device=x.device
        ),
        fix=_("move the whole model after attaching adapters: model.to(device)"),
    )
