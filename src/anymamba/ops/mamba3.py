"""The Mamba-3 recurrence over a sequence, with one value a head and token (SISO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import MANY_HEADS, Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Build, OpSpec, Random, register
from anymamba.ops.calls import checks, compiled
from anymamba.reference import mamba3 as exact

States = tuple[Tensor, Tensor, Tensor, Tensor]


def _shapes(V: Tensor, Q: Tensor, Angles: Tensor, cu_seqlens: Tensor | None, return_final_states: bool, **other: Any) -> list[Tensor]:
    outputs = [compiled.contiguous(V)]
    if return_final_states:
        sequences = V.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        nheads, headdim = V.shape[2:]
        floating = [other[name] for name in ("K", "ADT", "DT", "Trap", "Q_bias", "K_bias", "D", "Z", "ssm_state")]
        wide = compiled.state_dtype(V, Q, Angles, *floating)
        sizes = ((Angles.shape[3],), (headdim, Q.shape[3]), (Q.shape[3],))
        outputs += [torch.empty(sequences, nheads, *size, dtype=wide, device=V.device) for size in sizes]
        outputs.append(torch.empty(sequences, nheads, headdim, dtype=V.dtype, device=V.device))
    return outputs


@compiled.as_node(_shapes)
def mamba3_siso(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    D: Tensor | None = None,
    Z: Tensor | None = None,
    angle_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
    k_state: Tensor | None = None,
    v_state: Tensor | None = None,
    chunk_size: int = 64,
    return_final_states: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """mamba3_siso_combined with each of the four states as an argument of its own: the form that backends implement.

    S[t] = a S[t-1] + (1 - trap) DT a v[t-1] k[t-1]^T + trap DT v[t] k[t]^T;  out[t] = (S[t] q[t] + D v[t]) * silu(z[t]), where
    a = exp(ADT), trap = sigmoid(Trap), and q, k are Q + Q_bias, K + K_bias turned by the running sum of pi tanh(Angles) DT.

    Source: Mamba-3, section 3; ``mamba3_siso_combined`` and ``mamba3_siso_step`` of mamba_ssm.

    Q, K: (batch, length, ngroups, d_state), ngroups dividing nheads, d_state even. V, Z: (batch, length, nheads, headdim). ADT, DT, Trap:
    (batch, nheads, length), ADT <= 0. Q_bias, K_bias: (nheads, d_state). Angles: (batch, length, nheads, num_angles),
    num_angles <= d_state / 2: neighbouring pairs turn, what is left over stays. D: (nheads,). All floating, dtypes may differ, any
    strides; everything is computed in float32, or float64 where an argument has it. chunk_size: speed only.
    cu_seqlens: (sequences + 1,) integers from 0 to length; batch is 1 and its row holds that many sequences, none sees another.
    States, all four or none, one a sequence: angle_state (.., nheads, num_angles), ssm_state (.., nheads, headdim, d_state), k_state
    (.., nheads, d_state), the last key with bias and rotation, v_state (.., nheads, headdim), the last value.

    Returns out, shaped and typed like V; with return_final_states (out, angle, ssm, k, v state), the first three float32 (float64 for
    float64 inputs), the last like V. Differentiable in every floating argument and through the states.
    Raises ArgumentError (shapes, cu_seqlens), ArgumentTypeError (dtypes, devices), BackendError.
    """
    op = "mamba3_siso"
    states = {"angle_state": angle_state, "ssm_state": ssm_state, "k_state": k_state, "v_state": v_state}
    grad = checks.tensors(
        op,
        {"Q": Q, "K": K, "V": V, "ADT": ADT, "DT": DT, "Trap": Trap, "Q_bias": Q_bias, "K_bias": K_bias, "Angles": Angles},
        {"D": D, "Z": Z, **states},
        {"cu_seqlens": cu_seqlens},
    )
    checks.shape(op, "Q", Q, "(batch, length, ngroups, d_state)", (-1, -1, -1, -1))
    batch, length, ngroups, d_state = Q.shape
    checks.shape(op, "K", K, "(batch, length, ngroups, d_state)", tuple(Q.shape))
    checks.shape(op, "V", V, "(batch, length, nheads, headdim)", (batch, length, -1, -1))
    nheads, headdim = V.shape[2:]
    checks.divides(op, "ngroups", ngroups, "nheads", nheads)
    for name, bias in (("Q_bias", Q_bias), ("K_bias", K_bias)):
        checks.shape(op, name, bias, "(nheads, d_state)", (nheads, d_state))
    heads(op, V, ADT, DT, Trap, Angles, D, Z, d_state)
    sequences = packed(op, cu_seqlens, batch, length)
    state_names = [name for name, state in states.items() if state is not None]
    checks.value(op, "Input_States", state_names, len(state_names) in (0, 4), ", ".join(states) + " / None")
    checks.shape(op, "angle_state", angle_state, "(sequences, nheads, num_angles)", (sequences, nheads, Angles.shape[3]))
    checks.shape(op, "ssm_state", ssm_state, "(sequences, nheads, headdim, d_state)", (sequences, nheads, headdim, d_state))
    checks.shape(op, "k_state", k_state, "(sequences, nheads, d_state)", (sequences, nheads, d_state))
    checks.shape(op, "v_state", v_state, "(sequences, nheads, headdim)", (sequences, nheads, headdim))
    checks.value(op, "chunk_size", chunk_size, isinstance(chunk_size, int) and chunk_size >= 1, ">= 1")
    arguments = (
        Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, angle_state, ssm_state, k_state, v_state, chunk_size,
        bool(return_final_states), cu_seqlens,
    )  # fmt: skip
    if not V.numel():
        return exact.mamba3_siso(*arguments)
    if torch.compiler.is_compiling():
        return compiled.run(op, arguments, backend)
    features = checks.features(
        D=D, Z=Z, Input_States=ssm_state, return_final_states=bool(return_final_states), cu_seqlens=cu_seqlens,
        groups=ngroups > 1, mixed_dtype=checks.mixed(V, Q, K, Z), many_heads=sequences * nheads >= MANY_HEADS,
    )  # fmt: skip
    call = Call(op, V.device, V.dtype, grad, features, (("d_state", d_state), ("headdim", headdim)))
    return choose(call, backend).function(*arguments)


def mamba3_siso_combined(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    D: Tensor | None = None,
    Z: Tensor | None = None,
    Input_States: States | None = None,
    chunk_size: int = 64,
    return_final_states: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """mamba3_siso, which says what everything means, with upstream's signature: Input_States is (angle, ssm, k, v state) or None.

    Source: ``mamba3_siso_combined`` of mamba_ssm, which rounds Q, K, V, Trap, Angles and Z to bfloat16; here they keep their dtypes.
    Returns out (batch, length, nheads, headdim) or with return_final_states (out, angle, ssm, k, v state). Raises as mamba3_siso.
    """
    states = (None,) * 4 if Input_States is None else tuple(Input_States)
    checks.value("mamba3_siso_combined", "len(Input_States)", len(states), len(states) == 4, "4")
    return mamba3_siso(
        Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, *states, chunk_size=chunk_size,
        return_final_states=return_final_states, cu_seqlens=cu_seqlens, backend=backend,
    )  # fmt: skip


def mamba3_siso_step(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    D: Tensor | None = None,
    Z: Tensor | None = None,
    Input_States: States | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, States]:
    """One token of mamba3_siso. Source: ``mamba3_siso_step`` of mamba_ssm.

    Shapes as there without the axis of length: Q, K (batch, ngroups, d_state); V, Z (batch, nheads, headdim); ADT, DT, Trap
    (batch, nheads); Angles (batch, nheads, num_angles). Input_States: (angle, ssm, k, v state), None: a sequence begins.

    Returns out, like V, and the new (angle, ssm, k, v state); nothing is changed in place. Raises as mamba3_siso.
    """
    states = (None,) * 4 if Input_States is None else tuple(Input_States)
    checks.value("mamba3_siso_step", "len(Input_States)", len(states), len(states) == 4, "4")
    by_token = (Q, K, V, Angles, Z)
    q, k, v, angles, z = (None if tensor is None else tensor.unsqueeze(1) for tensor in by_token)
    assert q is not None and k is not None and v is not None and angles is not None
    adt, dt, trap = (tensor.unsqueeze(-1) for tensor in (ADT, DT, Trap))
    out, angle, ssm, key, value = mamba3_siso(
        q, k, v, adt, dt, trap, Q_bias, K_bias, angles, D, z, *states, chunk_size=1, return_final_states=True, backend=backend
    )
    return out.squeeze(1), (angle, ssm, key, value)


def heads(
    op: str, V: Tensor, ADT: Tensor, DT: Tensor, Trap: Tensor, Angles: Tensor, D: Tensor | None, Z: Tensor | None, d_state: int
) -> None:
    """The arguments that SISO and MIMO share. Raises ArgumentError."""
    batch, length, nheads, headdim = V.shape
    checks.value(op, "d_state", d_state, d_state % 2 == 0, "2, 4, 6, ...")
    for name, tensor in (("ADT", ADT), ("DT", DT), ("Trap", Trap)):
        checks.shape(op, name, tensor, "(batch, nheads, length)", (batch, nheads, length))
    checks.shape(op, "Angles", Angles, "(batch, length, nheads, num_angles)", (batch, length, nheads, -1))
    checks.value(op, "num_angles", Angles.shape[3], Angles.shape[3] <= d_state // 2, f"<= d_state / 2 = {d_state // 2}")
    checks.shape(op, "D", D, "(nheads,)", (nheads,))
    checks.shape(op, "Z", Z, "(batch, length, nheads, headdim)", (batch, length, nheads, headdim))


def packed(op: str, cu_seqlens: Tensor | None, batch: int, length: int) -> int:
    """How many sequences there are: the batch, or with cu_seqlens those of its one row. Raises ArgumentError."""
    if cu_seqlens is None:
        return batch
    checks.value(op, "batch", batch, batch == 1, "1 (cu_seqlens)")
    checks.borders(op, "cu_seqlens", cu_seqlens, length, all_tokens=True)
    return cu_seqlens.shape[0] - 1


STATES = ("angle_state", "ssm_state", "k_state", "v_state")


def build(
    length: int = 37, batch: int = 2, nheads: int = 4, headdim: int = 16, ngroups: int = 2, d_state: int = 16, num_angles: int = 4,
    given: tuple[str, ...] = ("D", "Z", *STATES), decay: float = 1.0, borders: Sequence[int] | None = None, chunk_size: int = 16,
    return_final_states: bool = True, **options: Any,
) -> Build:  # fmt: skip
    """given: which of D, Z and the states there are. decay: factor on ADT. borders: cu_seqlens."""

    def inputs(random: Random) -> Arguments:
        sequences = batch if borders is None else len(borders) - 1
        arguments = {
            "Q": random(batch, length, ngroups, d_state),
            "K": random(batch, length, ngroups, d_state),
            "V": random(batch, length, nheads, headdim),
            "ADT": -random(batch, nheads, length).exp() * decay,
            "DT": random(batch, nheads, length).sigmoid(),
            "Trap": random(batch, nheads, length),
            "Q_bias": random(nheads, d_state),
            "K_bias": random(nheads, d_state),
            "Angles": random(batch, length, nheads, num_angles),
        }
        optional: dict[str, tuple[int, ...]] = {
            "D": (nheads,),
            "Z": (batch, length, nheads, headdim),
            "angle_state": (sequences, nheads, num_angles),
            "ssm_state": (sequences, nheads, headdim, d_state),
            "k_state": (sequences, nheads, d_state),
            "v_state": (sequences, nheads, headdim),
        }
        arguments.update({name: random(*optional[name]) for name in given})
        if borders is not None:
            arguments["cu_seqlens"] = torch.tensor(borders, dtype=torch.int32)
        return {**arguments, "chunk_size": chunk_size, "return_final_states": return_final_states, **options}

    return inputs


def probe(call: Call) -> Build:
    """A head as large as those of the call, with what its kernels are compiled for, and many of them only if the call has many."""
    d_state = call.size("d_state", 16)
    states = STATES if "Input_States" in call.features else ()
    nheads, borders = MANY_HEADS if "many_heads" in call.features else 2, [0, 9, 21] if "cu_seqlens" in call.features else None
    return build(
        21, 1, nheads, call.size("headdim", 16), 1, d_state, max(d_state // 4, 1), borders=borders,
        given=(*(name for name in ("D", "Z") if name in call.features), *states),
        return_final_states="return_final_states" in call.features,
    )  # fmt: skip


SPEC = register(
    OpSpec(
        mamba3_siso,
        build,
        differentiable=("Q", "K", "V", "ADT", "DT", "Trap", "Q_bias", "K_bias", "Angles", "D", "Z", *STATES),
        float32=("ADT", "DT", "Q_bias", "K_bias", "D", "angle_state", "ssm_state", "k_state"),
        probe=probe,
        cases={
            "one group, nothing handed on": build(130, 2, 2, 8, 1, 16, given=("D", "Z"), return_final_states=False),
            "packed, a sequence of one token and one of none": build(60, 1, 2, 8, 1, borders=(0, 1, 18, 18, 60)),
            "packed, without states": build(50, 1, 2, 8, 1, borders=(0, 17, 50), given=(), return_final_states=False),
            "slow decay": build(200, 1, 2, 8, 1, 8, 2, given=("D",), decay=0.01),
            "fast decay": build(70, 1, 2, 8, 1, 8, 2, given=("D",), decay=100.0),
            "every pair turns, odd sizes": build(33, 3, 3, 5, 1, 10, 5),
        },
    )
)
