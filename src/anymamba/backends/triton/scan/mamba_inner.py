"""The inside of a Mamba-1 mixer as one node of autograd: convolution, projections, scan, output projection.

Composed of the ops, a mixer is a dozen nodes whose launches cost a small model more than its kernels, and the gradients of x and z
are written twice: apart, then joined. Here the kernels write them into the two halves of xz's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.scan_node import Scan
from anymamba.backends.transforms import first_derivative_only
from anymamba.backends.triton.conv.causal_conv1d import LARGEST_WIDTH, conv_backward, conv_forward, conv_plan
from anymamba.backends.triton.launch import runs_here
from anymamba.backends.triton.scan.selective_scan import SCAN
from anymamba.language import _

_COMPOSED = {"B", "C", "B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight", "dt_rms_weight", "complex_A"}


def supports(call: Call) -> tuple[bool, str]:
    """The published model's mixer: real A, B and C from x_proj, no norms in between."""
    ok, reason = runs_here(call)
    if not ok:
        return ok, reason
    missing = sorted(call.features & _COMPOSED)
    if missing:
        return False, _("composes {names} of other ops").format(names=", ".join(missing))
    if call.size("d_state") > 256 or not 1 <= call.size("width") <= LARGEST_WIDTH:
        return False, _("d_state or the width of the convolution is too large")
    return True, reason


def variant(call: Call) -> str:
    """States and taps are unrolled."""
    return f"{call.size('d_state', 16)} states, {call.size('width', 4)} taps"


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    mask: Tensor | None = None,
    changes: Mapping[str, Sequence[Any]] | None = None,
) -> Tensor:
    """See anymamba.ops.mamba_inner. xz: (batch, 2 * dim, length); fastest where the channel stride is 1."""
    return mixer(
        SCAN, xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, D, delta_bias,
        delta_softplus, checkpoint_lvl, mask, changes,
    )  # fmt: skip


def mixer(
    scan: Scan,
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    checkpoint_lvl: int,
    mask: Tensor | None,
    changes: Mapping[str, Sequence[Any]] | None,
) -> Tensor:
    """mamba_inner_fn with its scan by these kernels. changes: of low rank beside the projections, see anymamba.ops.mamba_inner."""
    D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))  # the scan's kernels read them side by side
    kind = xz.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else xz.dtype
    return _MambaInner.apply(
        scan, xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, D, delta_bias,
        bool(delta_softplus), checkpoint_lvl, dtype, None if mask is None else mask.to(dtype), *_beside(changes or {}),
    )  # fmt: skip


def _beside(changes: Mapping[str, Sequence[Any]]) -> list[Tensor | None]:
    """A (r, in) and B (out, r), scaled, of x_proj, delta_proj and out_proj; several changes of one weight are one of a larger rank."""
    pairs: list[Tensor | None] = []
    for name in ("x_proj", "delta_proj", "out_proj"):
        some = changes.get(name, ())
        pairs += [torch.cat([A for A, _, _ in some]), torch.cat([B * scaling for _, B, scaling in some], 1)] if some else [None, None]
    return pairs


class _Product(NamedTuple):
    """x -> x (weight + B A)^T; weight (out, in), A (r, in) and B (out, r) in the dtype of the products, or no A and B."""

    weight: Tensor
    A: Tensor | None
    B: Tensor | None

    @classmethod
    def of(cls, dtype: torch.dtype, weight: Tensor, A: Tensor | None, B: Tensor | None) -> _Product:
        return cls(weight.to(dtype), None if A is None else A.to(dtype), None if B is None else B.to(dtype))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x: (tokens, in)."""
        y = torch.nn.functional.linear(x, self.weight, bias)
        return y if self.A is None or self.B is None else y.addmm_(x @ self.A.mT, self.B.mT)

    def of_x(self, dy: Tensor, more: Tensor | None = None) -> Tensor:
        """The gradient of x, (tokens, in), and what more comes to it."""
        dx = dy @ self.weight if more is None else torch.addmm(more, dy, self.weight)
        return dx if self.A is None or self.B is None else dx.addmm_(dy @ self.B, self.A)

    def of_weights(self, dy: Tensor, x: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        """The gradients of weight, A and B, where they are wanted."""
        gradients: list[Tensor | None] = [dy.mT @ x if wanted[0] else None, None, None]
        if self.A is not None and self.B is not None:
            gradients[1:] = [(dy @ self.B).mT @ x if wanted[1] else None, dy.mT @ (x @ self.A.mT) if wanted[2] else None]
        return gradients


class _Parts(NamedTuple):
    """u, y: (batch, dim, length), channel stride 1. low: (batch * length, dt_rank + 2 * d_state). delta like u. states: of the scan."""

    u: Tensor
    low: Tensor
    delta: Tensor
    y: Tensor
    states: Tensor | None


class _MambaInner(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scan: Scan,
        xz: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor | None,
        x_proj: Tensor,
        dt_proj: Tensor,
        out_proj: Tensor,
        out_bias: Tensor | None,
        A: Tensor,
        D: Tensor | None,
        delta_bias: Tensor | None,
        softplus: bool,
        checkpoint_lvl: int,
        dtype: torch.dtype,
        mask: Tensor | None,
        *beside: Tensor | None,
    ) -> Tensor:
        keep = any(ctx.needs_input_grad)
        with torch.autocast(xz.device.type, enabled=False):
            by_x, by_dt, by_out = _products(dtype, (x_proj, dt_proj, out_proj), beside)
            parts, plan = _scanned(scan, xz, conv_weight, conv_bias, by_x, by_dt, A, D, delta_bias, softplus, keep, mask)
            bias = None if out_bias is None else out_bias.to(dtype)
            batch, _, length = xz.shape
            out = by_out.forward(_rows(parts.y).to(dtype), bias).view(batch, length, -1)
        if keep:
            # recomputed at level 1: everything but xz
            ctx.save_for_backward(
                xz, conv_weight, conv_bias, x_proj, dt_proj, out_proj, out_bias, A, D, delta_bias, *beside, *by_x, *by_dt, *by_out, mask,
                *(parts if checkpoint_lvl == 0 else ()),
            )  # fmt: skip
            ctx.scan, ctx.softplus, ctx.plan, ctx.dtype = scan, softplus, plan, dtype
        return out

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        xz, conv_weight, conv_bias, x_proj, dt_proj, out_proj, out_bias, A, D, delta_bias, *rest = ctx.saved_tensors
        beside, mask, saved = rest[:6], rest[15], rest[16:]
        by_x, by_dt, by_out = (_Product(*rest[first : first + 3]) for first in (6, 9, 12))
        scan, softplus, plan, dtype = ctx.scan, ctx.softplus, ctx.plan, ctx.dtype
        parts = _Parts(*saved) if saved else None
        # a frozen weight's gradient is a product that nobody needs
        wanted = [(ctx.needs_input_grad[4 + i], *ctx.needs_input_grad[15 + 2 * i : 17 + 2 * i]) for i in range(3)]
        with torch.autocast(xz.device.type, enabled=False):
            if parts is None:
                parts, plan = _scanned(scan, xz, conv_weight, conv_bias, by_x, by_dt, A, D, delta_bias, softplus, True, mask)
            assert parts.states is not None
            batch, dim, length = parts.u.shape
            rank, states = by_dt.weight.shape[1], A.shape[1]
            x, z = _halves(xz)
            dxz = torch.empty((batch, length, 2 * dim), dtype=xz.dtype, device=xz.device)
            dx, dz = _halves(dxz.mT)
            dout = dout.reshape(-1, dout.shape[2]).to(dtype)
            dy = by_out.of_x(dout).view(batch, length, dim).mT
            B, C = _matrices(parts.low, batch, rank, states)
            du, ddelta, dA, dB, dC, dD, found_dz, dbias = scan.backward(
                dy.to(parts.y.dtype), parts.u, parts.delta, A, B, C, D, z, delta_bias, softplus, parts.states, plan, dz
            )
            assert du is not None and ddelta is not None and dB is not None and dC is not None and found_dz is not None
            if found_dz.data_ptr() != dz.data_ptr():
                dz.copy_(found_dz)
            ddelta, rows = _rows(ddelta).to(dtype), _rows(parts.u).to(dtype)
            dlow = torch.empty_like(parts.low)
            dlow[:, :rank].copy_(by_dt.of_x(ddelta))
            dlow[:, rank : rank + states].copy_(_rows(dB))
            dlow[:, rank + states :].copy_(_rows(dC))
            du = by_x.of_x(dlow, _rows(du).to(dtype)).view(batch, length, dim).mT
            du = _without_padding(du, mask)
            of_conv = conv_plan(batch, dim, length, xz.device, backward=True)
            _, dconv, dconv_bias, _ = conv_backward(du.to(x.dtype), x, conv_weight[:, 0], conv_bias, None, None, True, of_conv, dx)
            of_x = by_x.of_weights(dlow, rows, wanted[0])
            of_dt = by_dt.of_weights(ddelta, parts.low[:, :rank], wanted[1])
            of_out = by_out.of_weights(dout, _rows(parts.y).to(dtype), wanted[2])
            given = x_proj, *beside[:2], dt_proj, *beside[2:4], out_proj, *beside[4:]
            found = [None if g is None or t is None else g.to(t.dtype) for g, t in zip([*of_x, *of_dt, *of_out], given)]
            dout_bias = None if out_bias is None else dout.sum(0, dtype=torch.float32).to(out_bias.dtype)
        pairs = [gradient for first in (1, 4, 7) for gradient in found[first : first + 2]]
        return (
            None, dxz.mT, dconv.unsqueeze(1), dconv_bias, *found[::3], dout_bias, dA, dD, dbias, None, None, None, None, *pairs,
        )  # fmt: skip


def _products(dtype: torch.dtype, weights: Sequence[Tensor], beside: Sequence[Tensor | None]) -> list[_Product]:
    return [_Product.of(dtype, weight, *beside[2 * i : 2 * i + 2]) for i, weight in enumerate(weights)]


def _scanned(
    scan: Scan,
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    by_x: _Product,
    by_dt: _Product,
    A: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    keep: bool,
    mask: Tensor | None,
) -> tuple[_Parts, Any]:
    x, z = _halves(xz)
    batch, dim, length = x.shape
    u = conv_forward(x, conv_weight[:, 0], conv_bias, None, None, True, conv_plan(batch, dim, length, x.device))
    u = _without_padding(u, mask)
    low = by_x.forward(_rows(u).to(by_x.weight.dtype))
    rank = by_dt.weight.shape[1]
    delta = by_dt.forward(low[:, :rank]).view(batch, length, dim).mT
    B, C = _matrices(low, batch, rank, A.shape[1])
    y, _, states, plan = scan.forward(u, delta, A, B, C, D, z, delta_bias, softplus, False, keep)
    return _Parts(u, low, delta, y, states), plan


def _without_padding(u: Tensor, mask: Tensor | None) -> Tensor:
    """u: (batch, dim, length), zeroed in place where mask (batch, length) is 0."""
    return u if mask is None else u.mul_(mask[:, None].to(u.dtype))


def _halves(xz: Tensor) -> tuple[Tensor, Tensor]:
    """x and z, (batch, dim, length) each, views."""
    dim = xz.shape[1] // 2
    return xz[:, :dim], xz[:, dim:]


def _rows(x: Tensor) -> Tensor:
    """(batch, channels, length) -> (batch * length, channels); a view where channels lie side by side."""
    return x.mT.reshape(-1, x.shape[1])


def _matrices(low: Tensor, batch: int, rank: int, states: int) -> tuple[Tensor, Tensor]:
    """B and C, (batch, d_state, length), views."""
    low = low.view(batch, -1, low.shape[1])
    return low[:, :, rank : rank + states].mT, low[:, :, rank + states :].mT
