"""Is what we are about to time right? No time is reported for a wrong result.

The criterion is FlashAttention's: against the exact result in float64 the error may be at most twice that of plain PyTorch in the
same dtype, for the output and every gradient; and never more than a fixed share of the tensor's largest magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba.language import _

Outcome = Mapping[str, Tensor]

_ULPS = 8
"""What rounding alone may add to the error of a float32 result; results in half precision get one unit in the last place."""

_CAP = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""However bad plain PyTorch is: beyond this a result is wrong. It may be plain PyTorch itself that is timed."""


@dataclass(frozen=True)
class Gate:
    """ok, and why in one sentence. error: the largest, relative to the largest magnitude of the tensor it is in; plain: what
    plain PyTorch has there."""

    ok: bool
    why: str
    error: float = 0.0
    plain: float = 0.0


def compare(ours: Outcome, plain: Outcome, exact: Outcome, computed: torch.dtype | None = None) -> Gate:
    """Each maps the names of outputs and gradients to tensors. The verdict names the worst.

    computed: the dtype of the computation, where results come in a wider one, as the gradients of autocast's weights do."""
    worst = 0.0, 0.0, 0.0, next(iter(exact))
    for name, want in exact.items():
        if ours[name].shape != want.shape:
            return Gate(
                False, _("{name} has shape {shape}").format(name=name, shape=tuple(ours[name].shape)), float("inf")
            )
        want = want.double()
        scale = want.abs().max().clamp(min=1e-30)
        error, plain_error = (
            ((r[name].to(want.device, torch.float64) - want).abs().max() / scale).item() for r in (ours, plain)
        )
        dtype = computed or ours[name].dtype
        epsilon = torch.finfo(dtype).eps
        limit = min(2 * plain_error + (epsilon if epsilon > 1e-4 else _ULPS * epsilon), _CAP[dtype])
        # written so that a NaN counts as infinitely bad
        share = error / limit if error <= limit or error > limit else float("inf")
        if share >= worst[0]:
            worst = share, error, plain_error, name
    share, error, plain_error, name = worst
    text = _("{name} is off by {error:.2g}, plain PyTorch by {plain_error:.2g}")
    return Gate(share <= 1, text.format(name=name, error=error, plain_error=plain_error), error, plain_error)


def crashed(error: Exception) -> Gate:
    return Gate(False, f"{type(error).__name__}: {error}", float("nan"), float("nan"))


def outcome(
    function: Callable[..., Any], inputs: Mapping[str, Any], differentiable: tuple[str, ...], exact: Outcome | None = None
) -> dict[str, Tensor]:
    """Outputs of function(**inputs), what it changed in place, and the gradients by the inputs named differentiable.

    The gradients are those of the sum of the outputs' absolute values: a cotangent is the sign of what exact says the output is (None:
    this outcome is the exact one), which every dtype holds exactly. Then a parameter moves all tokens the same way. With cotangents
    that know nothing of the outputs its gradient is what little is left when millions of them cancel, and beside that the rounding of
    16-bit products is large by chance."""
    leaves = {
        name: value.detach().clone().requires_grad_(name in differentiable) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
    out = function(**leaves)
    outputs = {
        f"output {index}": part
        for index, part in enumerate(out if isinstance(out, (tuple, list)) else (out,))
        if isinstance(part, Tensor)
    }
    result = {name: part.detach() for name, part in outputs.items()}
    for name in ("state", "conv_state"):
        if name in leaves:
            result[f"changed {name}"] = leaves[name].detach()
    if differentiable:
        outputs = {name: part for name, part in outputs.items() if part.requires_grad}
        cotangents = [(exact or result)[name].sign().to(part) for name, part in outputs.items()]
        gradients = torch.autograd.grad(list(outputs.values()), [leaves[name] for name in differentiable], cotangents)
        result.update({f"gradient of {name}": value for name, value in zip(differentiable, gradients)})
    return result
