"""One token of the scan: the recurrent step of Mamba-1 and Mamba-2."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.ops import checks, compiled


@compiled.as_node(lambda x, **_: [compiled.contiguous(x)], changes="state")
def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """state = exp(dt A) state + dt x B;  out = (state . C + D x) * silu(z); state is updated in place.

    Source: ``selective_state_update`` of mamba_ssm.

    Without heads (Mamba-1): state (rows, dim, d_state), x, dt, z (batch, dim), A (dim, d_state), D, dt_bias (dim,).
    With heads (Mamba-2): state (rows, nheads, headdim, d_state), x, dt, z (batch, nheads, headdim), A (nheads, headdim, d_state),
    D, dt_bias (nheads, headdim). B, C: (batch, d_state) or (batch, ngroups, d_state), ngroups dividing nheads (dim without heads).
    All floating, dtypes may differ, stride-0 expanded tensors are welcome. rows = batch unless state_batch_indices (batch,) gives
    the row of each sequence; a negative one is padding: output 0, no state is touched.

    Returns out, shaped and typed like x. No gradient passes.
    Raises ArgumentError, ArgumentTypeError, BackendError.
    """
    op = "selective_state_update"
    checks.tensors(
        op,
        {"state": state, "x": x, "dt": dt, "A": A, "B": B, "C": C},
        {"D": D, "z": z, "dt_bias": dt_bias},
        {"state_batch_indices": state_batch_indices},
    )
    if x.dim() not in (2, 3):
        raise checks.wrong_shape(op, "x", x, "(batch, dim) / (batch, nheads, headdim)")
    heads = x.dim() == 3
    batch, *inner = x.shape
    axes = "nheads, headdim" if heads else "dim"
    rows = batch if state_batch_indices is None else -1
    checks.shape(op, "state", state, f"(rows, {axes}, d_state)", (rows, *inner, -1))
    d_state = state.shape[-1]
    checks.shape(op, "dt", dt, f"(batch, {axes})", (batch, *inner))
    checks.shape(op, "A", A, f"({axes}, d_state)", (*inner, d_state))
    ngroups = 1
    for name, matrix in (("B", B), ("C", C)):
        if matrix.dim() == 2:
            checks.shape(op, name, matrix, "(batch, d_state)", (batch, d_state))
        else:
            checks.shape(op, name, matrix, "(batch, ngroups, d_state)", (batch, -1, d_state))
            checks.divides(op, f"ngroups ({name})", matrix.shape[1], "nheads" if heads else "dim", inner[0])
            ngroups = max(ngroups, matrix.shape[1])
    if D is not None:
        checks.shape(op, "D", D, f"({axes})", tuple(inner))
    if z is not None:
        checks.shape(op, "z", z, f"(batch, {axes})", (batch, *inner))
    if dt_bias is not None:
        checks.shape(op, "dt_bias", dt_bias, f"({axes})", tuple(inner))
    if state_batch_indices is not None:
        checks.shape(op, "state_batch_indices", state_batch_indices, "(batch,)", (batch,))
        checks.indices_below(op, "state_batch_indices", state_batch_indices, state.shape[0], "state.shape[0]")
    tied = heads and A.stride()[1:] == (0, 0) and dt.stride(2) == 0 and (dt_bias is None or dt_bias.stride(1) == 0)
    if not x.numel():
        return torch.empty_like(x)
    arguments = (state, x, dt, A, B, C, D, z, dt_bias, bool(dt_softplus), state_batch_indices)
    if torch.compiler.is_compiling():
        return compiled.run(op, arguments, backend)
    features = checks.features(
        D=D, z=z, dt_bias=dt_bias, dt_softplus=bool(dt_softplus), state_batch_indices=state_batch_indices,
        groups=ngroups > 1, heads=heads, tied=tied, mixed_dtype=checks.mixed(x, dt, B, C, z),
    )  # fmt: skip
    sizes = (("d_state", d_state), ("headdim", inner[1])) if heads else (("d_state", d_state),)
    function = choose(Call(op, x.device, x.dtype, False, features, sizes), backend).function
    if torch.is_grad_enabled():
        with torch.no_grad():
            return function(*arguments)
    return function(*arguments)
