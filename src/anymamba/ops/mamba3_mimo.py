"""The Mamba-3 recurrence over a sequence, with several values a head and token (MIMO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import MANY_HEADS, Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Build, OpSpec, Random, register
from anymamba.ops.calls import checks, compiled
from anymamba.ops.mamba3 import heads, packed
from anymamba.reference import mamba3 as exact


def _shapes(
    V: Tensor, Q: Tensor, Angles: Tensor, MIMO_Out: Tensor | None, dtype: torch.dtype | None, return_state: bool,
    cu_seqlens: Tensor | None, **other: Any,
) -> list[Tensor]:  # fmt: skip
    batch, length, nheads, headdim = V.shape
    rank, d_state = Q.shape[2], Q.shape[4]
    factory: dict[str, Any] = {"dtype": dtype or V.dtype, "device": V.device}
    outputs = [torch.empty(batch, length, *(() if MIMO_Out is not None else (rank,)), nheads, headdim, **factory)]
    if return_state:
        sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        floating = [other[name] for name in ("K", "ADT", "DT", "Trap", "Q_bias", "K_bias", "MIMO_V", "MIMO_Z", "D", "Z")]
        wide = compiled.state_dtype(V, Q, Angles, *floating, MIMO_Out)
        sizes = ((nheads, Angles.shape[3]), (nheads, headdim, d_state), (rank, nheads, d_state))
        outputs += [torch.empty(sequences, *size, dtype=wide, device=V.device) for size in sizes]
        outputs.append(torch.empty(sequences, nheads, headdim, dtype=V.dtype, device=V.device))
    return outputs


@compiled.as_node(_shapes)
def mamba3_mimo(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    MIMO_V: Tensor,
    MIMO_Z: Tensor | None,
    MIMO_Out: Tensor | None,
    Angles: Tensor,
    D: Tensor | None,
    Z: Tensor | None,
    chunk_size: int,
    rotary_dim_divisor: int,
    dtype: torch.dtype | None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """mamba3_siso with rank keys, queries and values a head and token, v[r] = V MIMO_V[r] and z[r] = Z MIMO_Z[r]: S sums v[r] k[r]^T
    over r;  out = sum over r of (S q[r] + D v[r]) * silu(z[r]) * MIMO_Out[r].

    Source: Mamba-3, section 3.3; ``mamba3_mimo`` of mamba_ssm.

    Q, K: (batch, length, rank, ngroups, d_state), ngroups dividing nheads, d_state even. Q_bias, K_bias: (nheads, rank, d_state).
    V, Z: (batch, length, nheads, headdim). MIMO_V, MIMO_Z (needed with Z), MIMO_Out: (nheads, rank, headdim). ADT, DT, Trap:
    (batch, nheads, length), ADT <= 0. Angles: (batch, length, nheads, d_state // rotary_dim_divisor), the divisor
    2 or 4; angle i turns the pair (i, d_state / 2 + i). D: (nheads,). cu_seqlens: as in mamba3_siso. All floating, any strides;
    everything is computed in float32, or float64 where an argument has it. chunk_size: speed only. dtype: of the output (None: V's).

    Returns out (batch, length, nheads, headdim), or (batch, length, rank, nheads, headdim) if MIMO_Out is None; with return_state
    (out, angle (sequences, nheads, num_angles), ssm (.., nheads, headdim, d_state), k (.., rank, nheads, d_state), v state (.., nheads,
    headdim)), the last like V, the others float32 or float64. Differentiable in every floating argument; through the states too.
    Raises ArgumentError (shapes, cu_seqlens), ArgumentTypeError (dtypes, devices), BackendError.
    """
    op = "mamba3_mimo"
    required = {
        "Q": Q, "K": K, "V": V, "ADT": ADT, "DT": DT, "Trap": Trap, "Q_bias": Q_bias, "K_bias": K_bias, "MIMO_V": MIMO_V,
        "Angles": Angles,
    }  # fmt: skip
    grad = checks.tensors(
        op,
        required,
        {"MIMO_Z": MIMO_Z, "MIMO_Out": MIMO_Out, "D": D, "Z": Z},
        {"cu_seqlens": cu_seqlens},
    )
    checks.shape(op, "Q", Q, "(batch, length, rank, ngroups, d_state)", (-1, -1, -1, -1, -1))
    batch, length, rank, ngroups, d_state = Q.shape
    checks.shape(op, "K", K, "(batch, length, rank, ngroups, d_state)", tuple(Q.shape))
    checks.value(op, "rank", rank, rank >= 1, ">= 1")
    checks.shape(op, "V", V, "(batch, length, nheads, headdim)", (batch, length, -1, -1))
    nheads, headdim = V.shape[2:]
    checks.divides(op, "ngroups", ngroups, "nheads", nheads)
    for name, bias in (("Q_bias", Q_bias), ("K_bias", K_bias)):
        checks.shape(op, name, bias, "(nheads, rank, d_state)", (nheads, rank, d_state))
    for name, projection in (("MIMO_V", MIMO_V), ("MIMO_Z", MIMO_Z), ("MIMO_Out", MIMO_Out)):
        checks.shape(op, name, projection, "(nheads, rank, headdim)", (nheads, rank, headdim))
    checks.value(op, "MIMO_Z", MIMO_Z, Z is None or MIMO_Z is not None, "(nheads, rank, headdim), Z")
    checks.value(op, "rotary_dim_divisor", rotary_dim_divisor, rotary_dim_divisor in (2, 4), "2 / 4")
    heads(op, V, ADT, DT, Trap, Angles, D, Z, d_state)
    checks.value(op, "num_angles", Angles.shape[3], Angles.shape[3] == d_state // rotary_dim_divisor, str(d_state // rotary_dim_divisor))
    checks.value(op, "chunk_size", chunk_size, isinstance(chunk_size, int) and chunk_size >= 1, ">= 1")
    sequences = packed(op, cu_seqlens, batch, length)
    arguments = (
        Q, K, V, ADT, DT, Trap, Q_bias, K_bias, MIMO_V, MIMO_Z, MIMO_Out, Angles, D, Z, chunk_size, rotary_dim_divisor, dtype,
        bool(return_state), cu_seqlens,
    )  # fmt: skip
    if not V.numel():
        return exact.mamba3_mimo(*arguments)
    if torch.compiler.is_compiling():
        return compiled.run(op, arguments, backend)
    features = checks.features(
        D=D, Z=Z, MIMO_Out=MIMO_Out, return_state=bool(return_state), cu_seqlens=cu_seqlens, groups=ngroups > 1,
        mixed_dtype=checks.mixed(V, Q, K, Z), many_heads=sequences * nheads >= MANY_HEADS,
    )  # fmt: skip
    call = Call(op, V.device, V.dtype, grad, features, (("d_state", d_state), ("headdim", headdim), ("rank", rank)))
    return choose(call, backend).function(*arguments)


def build(
    length: int = 37, batch: int = 2, nheads: int = 4, headdim: int = 16, ngroups: int = 2, d_state: int = 16, rank: int = 3,
    given: tuple[str, ...] = ("MIMO_Out", "D", "Z"), decay: float = 1.0, borders: Sequence[int] | None = None, chunk_size: int = 16,
    rotary_dim_divisor: int = 4, dtype: torch.dtype | None = None, return_state: bool = True,
) -> Build:  # fmt: skip
    """given: which of MIMO_Out, D and Z there are. decay: factor on ADT. borders: cu_seqlens."""

    def inputs(random: Random) -> Arguments:
        keys, projections = (batch, length, rank, ngroups, d_state), (nheads, rank, headdim)
        shapes = {"MIMO_Z": projections, "MIMO_Out": projections, "D": (nheads,), "Z": (batch, length, nheads, headdim)}
        names = (*given, "MIMO_Z") if "Z" in given else given
        arguments = {
            "Q": random(*keys),
            "K": random(*keys),
            "V": random(batch, length, nheads, headdim),
            "ADT": -random(batch, nheads, length).exp() * decay,
            "DT": random(batch, nheads, length).sigmoid(),
            "Trap": random(batch, nheads, length),
            "Q_bias": random(nheads, rank, d_state),
            "K_bias": random(nheads, rank, d_state),
            "MIMO_V": random(*projections),
            "Angles": random(batch, length, nheads, d_state // rotary_dim_divisor),
            **{name: random(*shape) if name in names else None for name, shape in shapes.items()},
            "chunk_size": chunk_size,
            "rotary_dim_divisor": rotary_dim_divisor,
            "dtype": dtype,
            "return_state": return_state,
        }
        if borders is not None:
            arguments["cu_seqlens"] = torch.tensor(borders, dtype=torch.int32)
        return arguments

    return inputs


def probe(call: Call) -> Build:
    """As that of mamba3_siso, and of the call's rank."""
    nheads = MANY_HEADS if "many_heads" in call.features else 2
    return build(
        21, 1, nheads, call.size("headdim", 16), 1, call.size("d_state", 16), call.size("rank", 3),
        tuple(name for name in ("MIMO_Out", "D", "Z") if name in call.features),
        borders=[0, 9, 21] if "cu_seqlens" in call.features else None, return_state="return_state" in call.features,
    )  # fmt: skip


SPEC = register(
    OpSpec(
        mamba3_mimo,
        build,
        differentiable=(
            "Q", "K", "V", "ADT", "DT", "Trap", "Q_bias", "K_bias", "MIMO_V", "MIMO_Z", "MIMO_Out", "Angles", "D", "Z",
        ),
        float32=("ADT", "DT", "Q_bias", "K_bias", "MIMO_V", "MIMO_Z", "MIMO_Out", "D"),
        probe=probe,
        cases={
            "one rank, one group": build(40, 2, 2, 8, 1, 8, 1, return_state=False),
            "four ranks, kept apart": build(35, 2, 2, 8, 1, 8, 4, given=("D", "Z")),
            "eight ranks, without gate": build(20, 1, 2, 4, 1, 8, 8, given=("D", "MIMO_Out")),
            "packed": build(45, 1, 2, 8, 1, 8, 2, borders=(0, 1, 20, 20, 45)),
            "every pair turns, odd sizes": build(33, 3, 3, 5, 1, 12, 3, rotary_dim_divisor=2),
        },
    )
)  # fmt: skip
