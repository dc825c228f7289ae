"""Calls inside of torch.func's transformations (vmap, grad, jvp, ...) and of forward-mode differentiation, and second derivatives.

Kernels take addresses and know one derivative; the reference is made of torch's own operations, which know all of it. So inside of a
transformation an automatic choice is the reference. The torch backend is made of such operations too, where it has to be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from anymamba.errors import BackendError, warn_once
from anymamba.language import _

_TRANSFORMABLE = ("reference", "torch")
"""Backends made of operations that torch itself differentiates and transforms."""


def transformed() -> bool:
    """True inside of torch.func's transformations and of ``forward_ad.dual_level``: values cannot be read there, and kernels
    that take addresses cannot run."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def backend_inside(op: str, requested: str | None) -> str:
    """The backend of a call inside of a transformation. Raises BackendError where one with kernels is asked for."""
    if requested not in (None, *_TRANSFORMABLE):
        raise BackendError(
            "backend",
            _("backend {requested!r} cannot run {op} inside of torch.func").format(requested=requested, op=op),
            why=_("vmap, grad, jvp and forward-mode differentiation need operations that torch itself can transform"),
            fix=_('leave the backend to us there, or take anymamba.use_backend("torch") or ("reference")'),
        )
    if requested is None:
        warn_once(
            f"transformed:{op}",
            _(
                "{op} runs on backend 'reference' inside of torch.func (vmap, grad, jvp) and forward-mode automatic "
                "differentiation: exact, and slow"
            ).format(op=op),
        )
        return "reference"
    return requested


def differentiated_again(function: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of ``function(*inputs)`` with a graph of their own, for a ``backward`` under create_graph=True. function: what the
    node computes, in operations that torch itself differentiates."""
    # views: one input may have been computed from another, and that path is not this node's
    inputs = [tensor.view_as(tensor) for tensor in inputs]
    outputs = function(*inputs)
    leaves = [tensor for tensor in inputs if tensor.requires_grad]
    grads = iter(torch.autograd.grad(outputs, leaves, gradient, create_graph=True, allow_unused=True))
    return tuple(next(grads) if tensor.requires_grad else None for tensor in inputs)


def first_derivative_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a kernel's ``backward``, in place of torch's once_differentiable: differentiating its gradients again raises
    BackendError that says what works."""

    @functools.wraps(backward)
    def guarded(ctx: Any, *gradients: Any) -> Any:
        if not torch.is_grad_enabled():
            return backward(ctx, *gradients)
        ctx = _UnpackedOnce(ctx)
        with torch.no_grad():
            outputs = backward(ctx, *gradients)
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        # gradients that a second differentiation reaches: it fails there, and says why
        sources = [tensor for tensor in (*gradients, *ctx.saved_tensors) if isinstance(tensor, Tensor) and tensor.requires_grad]
        if not sources:
            return outputs
        parts = tuple(_Last.apply(part, *sources) if isinstance(part, Tensor) else part for part in parts)
        return parts if isinstance(outputs, tuple) else parts[0]

    return guarded


class _UnpackedOnce:
    """A node's context whose saved tensors may be asked for twice, which torch.utils.checkpoint allows once."""

    def __init__(self, ctx: Any) -> None:
        self._ctx, self.saved_tensors = ctx, ctx.saved_tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


class _Last(torch.autograd.Function):
    """The identity of a gradient, joined to the graphs of all that it was computed from, so that every second derivative comes here."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *__: Any) -> Any:
        raise BackendError(
            "backend",
            _("the kernels have first derivatives only"),
            why=_("a gradient made with create_graph=True was differentiated again"),
            fix=_(
                'compute the forward pass with anymamba.use_backend("torch"), which can be differentiated any number '
                "of times"
            ),
        )
