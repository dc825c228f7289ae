"""The Mamba-2 scan over a sequence, in the chunked form of state space duality."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.errors import ArgumentError
from anymamba.language import say
from anymamba.ops import checks, compiled
from anymamba.reference import ssd as exact


def _shapes(x: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None, return_final_states: bool, return_varlen_states: bool,
            state_dtype: torch.dtype | None, **other: Any) -> list[Tensor]:  # fmt: skip
    state = (*x.shape[2:], B.shape[3])
    optional = [other[name] for name in ("dt", "A", "D", "z", "dt_bias", "initial_states")]
    outputs = [compiled.contiguous(x)]
    if return_final_states:
        dtype = compiled.state_dtype(x, B, C, *optional)
        outputs.append(torch.empty(x.shape[0], *state, dtype=dtype, device=x.device))
    if return_varlen_states and cu_seqlens is not None:
        outputs.append(torch.empty(cu_seqlens.shape[0] - 1, *state, dtype=state_dtype or C.dtype, device=x.device))
    return outputs


@compiled.as_node(_shapes)
def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]^T;  out[t] = (h[t] C[t] + D x[t]) * silu(z[t]).

    Source: Mamba-2, section 6 and listing 1; ``mamba_chunk_scan_combined`` of mamba_ssm.

    x, z: (batch, length, nheads, headdim), fp32, bf16, fp16 or fp64, any strides. dt: (batch, length, nheads); it becomes
    clamp(softplus(dt + dt_bias), *dt_limit), with the softplus only if dt_softplus. A, dt_bias: (nheads,).
    B, C: (batch, length, ngroups, d_state), ngroups dividing nheads. D: (nheads,) or (nheads, headdim).
    initial_states: (batch, nheads, headdim, d_state), the state before token 0.
    seq_idx: (batch, length) integers, the document of each token: a new id starts from a state of zero, initial_states belong to the
    first document; negative is padding, as if the token were not there: output 0. cu_seqlens: (sequences + 1,) integers, borders
    of packed sequences (batch 1), used by return_varlen_states alone. chunk_size: tokens a chunk, speed only.
    state_dtype: dtype of the varlen states (None: that of C); states are kept in float32 while they are computed.

    Returns out, shaped and typed like x; then, as asked, final_states (batch, nheads, headdim, d_state) float32 (float64 for
    float64 inputs), and varlen_states (sequences, nheads, headdim, d_state). Differentiable in every floating argument and
    through final_states; not through varlen_states.

    Raises ArgumentError (shapes, dt_limit), ArgumentTypeError (dtypes, devices), BackendError.
    """
    op = "mamba_chunk_scan_combined"
    grad = checks.tensors(
        op,
        {"x": x, "dt": dt, "A": A, "B": B, "C": C},
        {"D": D, "z": z, "dt_bias": dt_bias, "initial_states": initial_states},
        {"seq_idx": seq_idx, "cu_seqlens": cu_seqlens},
    )
    checks.shape(op, "x", x, "(batch, length, nheads, headdim)", (-1, -1, -1, -1))
    batch, length, nheads, headdim = x.shape
    checks.shape(op, "dt", dt, "(batch, length, nheads)", (batch, length, nheads))
    checks.shape(op, "A", A, "(nheads,)", (nheads,))
    checks.shape(op, "B", B, "(batch, length, ngroups, d_state)", (batch, length, -1, -1))
    ngroups, d_state = B.shape[2:]
    checks.divides(op, "ngroups", ngroups, "nheads", nheads)
    checks.shape(op, "C", C, "(batch, length, ngroups, d_state)", (batch, length, ngroups, d_state))
    checks.skip(op, D, nheads, headdim)
    checks.shape(op, "z", z, "(batch, length, nheads, headdim)", (batch, length, nheads, headdim))
    checks.shape(op, "dt_bias", dt_bias, "(nheads,)", (nheads,))
    states = (batch, nheads, headdim, d_state)
    checks.shape(op, "initial_states", initial_states, "(batch, nheads, headdim, d_state)", states)
    checks.shape(op, "seq_idx", seq_idx, "(batch, length)", (batch, length))
    checks.value(op, "chunk_size", chunk_size, isinstance(chunk_size, int) and chunk_size >= 1, ">= 1")
    checks.dt_limit(op, dt_limit)
    if return_varlen_states:
        _check_varlen(op, cu_seqlens, batch, length)
    limits = (float(dt_limit[0]), float(dt_limit[1]))
    arguments = (
        x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_states, seq_idx, cu_seqlens if return_varlen_states else None,
        bool(dt_softplus), limits, bool(return_final_states), bool(return_varlen_states), state_dtype,
    )  # fmt: skip
    if not x.numel():
        return exact.mamba_chunk_scan_combined(*arguments)
    if torch.compiler.is_compiling():
        return compiled.run(op, arguments, backend)
    features = checks.features(
        D=D, z=z, dt_bias=dt_bias, initial_states=initial_states, seq_idx=seq_idx, dt_softplus=bool(dt_softplus),
        cu_seqlens=cu_seqlens if return_varlen_states else None, return_final_states=bool(return_final_states),
        return_varlen_states=bool(return_varlen_states), groups=ngroups > 1,
        D_per_channel=D is not None and D.dim() == 2, dt_limit=limits != (0.0, float("inf")),
        mixed_dtype=checks.mixed(x, dt, B, C, z),
    )  # fmt: skip
    call = Call(op, x.device, x.dtype, grad, features, (("d_state", d_state), ("headdim", headdim)))
    return choose(call, backend).function(*arguments)


def _check_varlen(op: str, cu_seqlens: Tensor | None, batch: int, length: int) -> None:
    if cu_seqlens is None or batch != 1:
        found = f"cu_seqlens {None if cu_seqlens is None else tuple(cu_seqlens.shape)}, batch = {batch}"
        wanted = "cu_seqlens (sequences + 1,), batch = 1"
        raise ArgumentError(
            "value",
            say(
                f"{op}: return_varlen_states with {found}; expected {wanted}",
                f"{op}：return_varlen_states 时 {found}；应为 {wanted}",
            ),
        )
    checks.borders(op, "cu_seqlens", cu_seqlens, length)
