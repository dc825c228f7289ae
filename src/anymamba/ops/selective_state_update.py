"""One token of the scan: the recurrent step of Mamba-1 and Mamba-2."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Bench, Build, OpSpec, Random, on_cuda, register
from anymamba.ops.calls import checks, compiled
from anymamba.ops.calls.inputs import chosen


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


def build(
    batch: int = 2, nheads: int = 4, headdim: int = 16, ngroups: int = 2, d_state: int = 16, tied: bool = True,
    without: tuple[str, ...] = (), dt: float = -2.0, size: float = 1.0, rows: int = 0, indices: Sequence[int] | None = None,
    fresh: bool = False, dt_softplus: bool = True,
) -> Build:  # fmt: skip
    """nheads 0: the form of Mamba-1, without that dimension. ngroups 0: B and C without that dimension. tied: A, dt, D and dt_bias are one
    number a head, spread by strides of 0, as in Mamba-2. size: factor on the state. rows: of the state, 0: batch; indices:
    state_batch_indices. fresh: A, D and step sizes as a model has them before training."""

    def inputs(random: Random) -> Arguments:
        channels = (nheads, headdim) if nheads else (headdim,)
        matrix = (batch, ngroups, d_state) if nheads and ngroups else (batch, d_state)
        one = (nheads, 1) if nheads and tied else channels
        A = -random(*one, 1 if nheads and tied else d_state).exp()
        if fresh:
            start = torch.linspace(1, 16, nheads)[:, None, None] if nheads else torch.arange(1, d_state + 1.0)
            A = -start.to(A).expand(A.shape)
        steps, D, bias = random(batch, *one), random(*one), random(*one)
        tensors = {
            "state": random(rows or batch, *channels, d_state) * size,
            "x": random(batch, *channels),
            "dt": (steps if dt_softplus else steps.abs() * 0.2).expand(-1, *channels),
            "A": A.expand(*channels, d_state),
            "B": random(*matrix),
            "C": random(*matrix),
            "D": (torch.ones_like(D) if fresh else D).expand(channels),
            "z": random(batch, *channels),
            "dt_bias": (bias * (1.0 if fresh else 0.1) + dt).expand(channels),
        }
        if indices is not None:
            tensors["state_batch_indices"] = torch.tensor(indices, dtype=torch.int32)
        return {**chosen(tensors, without), "dt_softplus": dt_softplus}

    return inputs


_own = functools.partial(build, tied=False)

SPEC = register(
    OpSpec(
        selective_state_update,
        build,
        float32=("state", "A", "D", "dt_bias"),
        inplace=("state",),
        forward_cases={
            "Mamba-1": build(nheads=0, headdim=37),
            "Mamba-1, batch 1": build(1, 0, 130, without=("z",)),
            "decay by head, batch 3": build(3),
            "decay by head, a model's sizes": build(1, 2, 64, 1, 128, without=("z",)),
            "no options": _own(3, without=("D", "z", "dt_bias"), dt_softplus=False),
            "one state, odd channels": _own(2, 3, 7, 1, 1),
            "tiny dt": _own(dt=-13.0),
            "huge dt": _own(dt=40.0),
            "large states": _own(size=1e6),
            "states by index": _own(rows=6, indices=(4, 1)),
        },
        bench=tuple(
            Bench(
                name,
                {"batch": batch, "nheads": nheads, "headdim": headdim, "ngroups": 1, "d_state": d_state, "dt": -4.0, "fresh": True},
                **more,
            )
            for name, batch, nheads, headdim, d_state, more in (
                ("B1-D1536-N16", 1, 0, 1536, 16, {"quick": True}),
                ("B1-H24-P64-N128", 1, 24, 64, 128, {"quick": True}),
                ("B1-D5120-N16", 1, 0, 5120, 16, on_cuda()),
                ("B1-H80-P64-N128", 1, 80, 64, 128, on_cuda()),
                ("B64-D5120-N16", 64, 0, 5120, 16, on_cuda()),
                ("B64-H80-P64-N128", 64, 80, 64, 128, on_cuda()),
            )
        ),
    )
)
