"""One token of Mamba-3 on keys and queries that are biased and turned already: the recurrent step of decoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Build, OpSpec, Random, register
from anymamba.ops.calls import checks, compiled


def _shapes(x: Tensor, xproj: Tensor, outproj: Tensor | None, **_: Any) -> list[Tensor]:
    batch, nheads, headdim = x.shape
    rank = () if outproj is not None else (xproj.shape[0],)
    return [torch.empty(batch, *rank, nheads, headdim, dtype=x.dtype, device=x.device)]


@compiled.as_node(_shapes, changes="state")
def mamba3_state_update(
    state: Tensor,
    Bstate: Tensor,
    Xstate: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    x: Tensor,
    dt: Tensor,
    trap: Tensor,
    xproj: Tensor,
    outproj: Tensor | None = None,
    z: Tensor | None = None,
    zproj: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """state = a state + sum over r of (1 - trap) dt a Xstate xproj[r] Bstate[r]^T + trap dt x xproj[r] B[r]^T, a = exp(A dt), in place;
    out[r] = (state C[r] + D x xproj[r]) * silu(z zproj[r]); with outproj, out = sum over r of out[r] * outproj[r].

    Source: Mamba-3, section 3; ``mamba3_step_fn`` of mamba_ssm.

    state: (batch, nheads, headdim, d_state). Bstate, B, C: (batch, rank, nheads, d_state), the last key, the key and the query, biased and
    turned. Xstate, x, z: (batch, nheads, headdim), the last value, the value, the gate. A (negative), dt, trap (between 0 and 1, not its
    logit): (batch, nheads). D: (nheads,). xproj, zproj (needed with z), outproj: (rank, nheads, headdim). All floating,
    dtypes may differ, any strides.

    Returns out (batch, nheads, headdim), without outproj (batch, rank, nheads, headdim), in the dtype of x. No gradient passes.
    Raises ArgumentError, ArgumentTypeError, BackendError.
    """
    op = "mamba3_state_update"
    required = {
        "state": state, "Bstate": Bstate, "Xstate": Xstate, "A": A, "B": B, "C": C, "x": x, "dt": dt, "trap": trap, "xproj": xproj,
    }  # fmt: skip
    checks.tensors(op, required, {"D": D, "outproj": outproj, "z": z, "zproj": zproj})
    checks.shape(op, "state", state, "(batch, nheads, headdim, d_state)", (-1, -1, -1, -1))
    batch, nheads, headdim, d_state = state.shape
    checks.shape(op, "xproj", xproj, "(rank, nheads, headdim)", (-1, nheads, headdim))
    rank = xproj.shape[0]
    for name, key in (("Bstate", Bstate), ("B", B), ("C", C)):
        checks.shape(op, name, key, "(batch, rank, nheads, d_state)", (batch, rank, nheads, d_state))
    for name, value in (("Xstate", Xstate), ("x", x), ("z", z)):
        checks.shape(op, name, value, "(batch, nheads, headdim)", (batch, nheads, headdim))
    for name, scalar in (("A", A), ("dt", dt), ("trap", trap)):
        checks.shape(op, name, scalar, "(batch, nheads)", (batch, nheads))
    for name, projection in (("zproj", zproj), ("outproj", outproj)):
        checks.shape(op, name, projection, "(rank, nheads, headdim)", (rank, nheads, headdim))
    checks.shape(op, "D", D, "(nheads,)", (nheads,))
    checks.value(op, "zproj", zproj, z is None or zproj is not None, "(rank, nheads, headdim), z")
    arguments = (state, Bstate, Xstate, A, B, C, D, x, dt, trap, xproj, outproj, z, zproj)
    if not x.numel():
        return _shapes(x=x, xproj=xproj, outproj=outproj)[0]
    if torch.compiler.is_compiling():
        return compiled.run(op, arguments, backend)
    features = checks.features(D=D, z=z, outproj=outproj, mixed_dtype=checks.mixed(x, Xstate, B, C, z))
    sizes = (("d_state", d_state), ("headdim", headdim), ("rank", rank))
    function = choose(Call(op, x.device, x.dtype, False, features, sizes), backend).function
    with torch.no_grad():
        return function(*arguments)


def mamba3_step_fn(
    state: Tensor,
    Bstate: Tensor,
    Xstate: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    x: Tensor,
    dt: Tensor,
    trap: Tensor,
    xproj: Tensor,
    outproj: Tensor | None = None,
    state_out: Tensor | None = None,
    out: Tensor | None = None,
    z: Tensor | None = None,
    zproj: Tensor | None = None,
    tile_D: int = 64,
    num_warps: int = 2,
    *,
    backend: str | None = None,
) -> Tensor:
    """mamba3_state_update, which says what everything means, with upstream's signature. Source: ``mamba3_step_fn`` of mamba_ssm.

    state_out: (batch, nheads, headdim, d_state), receives the new state, and state stays as it is; None: state is updated in place.
    out: receives the output; None: a new tensor. tile_D, num_warps: of upstream's kernel, without effect.

    Returns the output (upstream returns nothing). Raises as mamba3_state_update.
    """
    op = "mamba3_step_fn"
    if state_out is not None:
        checks.shape(op, "state_out", state_out, "(batch, nheads, headdim, d_state)", tuple(state.shape))
        state = state_out.copy_(state)
    y = mamba3_state_update(state, Bstate, Xstate, A, B, C, D, x, dt, trap, xproj, outproj, z, zproj, backend=backend)
    if out is None:
        return y
    checks.shape(op, "out", out, "(batch, nheads, headdim)" if outproj is not None else "(batch, rank, nheads, headdim)", tuple(y.shape))
    return out.copy_(y)


def build(
    batch: int = 2, nheads: int = 4, headdim: int = 16, d_state: int = 16, rank: int = 3, given: tuple[str, ...] = ("D", "z", "outproj")
) -> Build:
    """given: which of D, z and outproj there are."""

    def inputs(random: Random) -> Arguments:
        keys, values, projections = (batch, rank, nheads, d_state), (batch, nheads, headdim), (rank, nheads, headdim)
        shapes = {"D": (nheads,), "z": values, "zproj": projections, "outproj": projections}
        names = (*given, "zproj") if "z" in given else given
        return {
            "state": random(batch, nheads, headdim, d_state),
            "Bstate": random(*keys),
            "Xstate": random(*values),
            "A": -random(batch, nheads).exp(),
            "B": random(*keys),
            "C": random(*keys),
            "x": random(*values),
            "dt": random(batch, nheads).sigmoid(),
            "trap": random(batch, nheads).sigmoid(),
            "xproj": random(*projections),
            **{name: random(*shape) if name in names else None for name, shape in shapes.items()},
        }

    return inputs


SPEC = register(
    OpSpec(
        mamba3_state_update,
        build,
        float32=("state", "A", "D", "dt", "xproj", "outproj", "zproj"),
        inplace=("state",),
        forward_cases={"one rank": build(3, 2, 5, 10, 1), "neither gate nor sum": build(2, 3, 8, 16, 4, given=("D",))},
    )
)
