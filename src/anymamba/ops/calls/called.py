"""Modules called inside the composed ops, in place of products with their weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from anymamba.errors import AnymambaError, ArgumentError, ArgumentTypeError
from anymamba.language import _

Projection = Callable[[Tensor], Tensor]
"""A module called in place of a product with its weight: (..., in) to (..., out)."""


def projected(op: str, name: str, module: Projection, x: Tensor, weight: Tensor) -> Tensor:
    """module(x), which must be what a product with the weight would be: (..., out) on the device of x.

    Raises ArgumentError or ArgumentTypeError where a wrapper or hook around the module changed that, or its adapter is elsewhere.
    """
    try:
        y = module(x)
    except RuntimeError as error:
        if "same device" not in str(error):
            raise
        raise _elsewhere(op, name, str(error)) from error
    if not isinstance(y, Tensor):
        kind = type(y).__name__
        raise ArgumentTypeError(
            "dtype", _("{op}: {name} returned a {kind}, expected a tensor").format(op=op, name=name, kind=kind)
        )
    expected = (*x.shape[:-1], weight.shape[0])
    if y.shape != expected:
        actual_shape = tuple(y.shape)
        raise ArgumentError(
            "shape",
            _("{op}: {name} returned shape {value}, expected {expected}").format(
                op=op, name=name, value=actual_shape, expected=expected
            ),
            why=_("a wrapper, a hook or an adapter on it changes the shape"),
        )
    if y.device != x.device:
        raise _elsewhere(op, name, f"{y.device}, {x.device}")
    return y


def _elsewhere(op: str, name: str, why: str) -> AnymambaError:
    return ArgumentTypeError(
        "device",
        _("{op}: {name} or an adapter on it is on another device").format(op=op, name=name),
        why=why,
        fix=_("move the whole model with model.to(device) after attaching adapters"),
    )
