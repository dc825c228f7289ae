"""The Mamba-2 scan over a sequence, in the chunked form of state space duality."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Bench, Build, OpSpec, Random, on_cuda, register
from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.ops.calls import checks, compiled
from anymamba.ops.calls.inputs import BORDERS, chosen
from anymamba.ops.calls.inputs import documents as packed
from anymamba.ops.calls.remembered import keep, remembered
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


SHORT = 16
"""Up to so many tokens a kernel has less than one chunk to do."""


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
    key = function = None
    if cu_seqlens is None and type(chunk_size) is int and type(dt_limit) is tuple:  # borders are checked by their values
        options = (
            chunk_size, bool(dt_softplus), dt_limit, bool(return_final_states), bool(return_varlen_states), state_dtype,
        )  # fmt: skip
        key, function = remembered(op, (x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx), options, backend)
    if function:
        return function(x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_states, seq_idx, None, *options[1:])
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
        mixed_dtype=checks.mixed(x, dt, B, C, z), short=length <= SHORT,
    )  # fmt: skip
    sizes = (("d_state", d_state), ("headdim", headdim), ("heads_per_group", nheads // ngroups))
    call = Call(op, x.device, x.dtype, grad, features, sizes)
    choice = choose(call, backend)
    keep(key, call, choice, arguments)
    return choice.function(*arguments)


def _check_varlen(op: str, cu_seqlens: Tensor | None, batch: int, length: int) -> None:
    if cu_seqlens is None or batch != 1:
        actual = f"cu_seqlens {None if cu_seqlens is None else tuple(cu_seqlens.shape)}, batch = {batch}"
        expected = "cu_seqlens (sequences + 1,), batch = 1"
        raise ArgumentError(
            "value",
            _("{op}: return_varlen_states with {value}; expected {expected}").format(
                op=op, value=actual, expected=expected
            ),
        )
    checks.borders(op, "cu_seqlens", cu_seqlens, length)


def build(
    length: int = 37, batch: int = 2, nheads: int = 4, headdim: int = 16, ngroups: int = 2, d_state: int = 24, dt: float = -2.0,
    decay: float = 1.0, size: float = 1.0, tokens: int = 0, without: tuple[str, ...] = (), D_per_channel: bool = False,
    one_tensor: bool = False, borders: Sequence[int] | None = None, documents: Sequence[int] | None = None, fresh: bool = False,
    chunk_size: int = 16, dt_softplus: bool = True, return_final_states: bool = True, **options: Any,
) -> Build:  # fmt: skip
    """tokens: of each document of a packed row, 0: not packed; documents: seq_idx itself, borders: cu_seqlens. one_tensor: x, B and C
    are views of one tensor, as in the model. dt: mean before softplus; decay, size: factors on A and x. fresh: A, D and step sizes
    as a model has them before training. With 24 states a wrong gradient of what was compiled for an H100 showed, not with 16."""

    def inputs(random: Random) -> Arguments:
        sizes = nheads * headdim, ngroups * d_state, ngroups * d_state
        x, B, C = (random(batch, length, part) for part in sizes)
        if one_tensor:
            x, B, C = torch.cat([x, B, C], dim=-1).split(sizes, dim=-1)
        x = x.unflatten(-1, (nheads, headdim))
        steps, A = random(batch, length, nheads), -random(nheads).exp() * decay
        D, bias = random(nheads, headdim) if D_per_channel else random(nheads), random(nheads)
        tensors = {
            "x": x * size if size != 1.0 else x,
            "dt": steps * 0.5 if dt_softplus else steps.abs() * 0.2,
            "A": -torch.linspace(1, 16, nheads).to(A) if fresh else A,
            "B": B.unflatten(-1, (ngroups, d_state)),
            "C": C.unflatten(-1, (ngroups, d_state)),
            "D": torch.ones_like(D) if fresh else D,
            "z": random(batch, length, nheads, headdim),
            "dt_bias": bias * (1.0 if fresh else 0.1) + dt if dt_softplus else bias.abs() * 0.25,
            "initial_states": random(batch, nheads, headdim, d_state),
        }
        if tokens:
            tensors["seq_idx"] = packed(batch, length, tokens, 7)
        if documents is not None:
            tensors["seq_idx"] = torch.tensor(documents, dtype=torch.int32).expand(batch, -1)
        if borders is not None:
            tensors["cu_seqlens"] = torch.tensor(borders, dtype=torch.int32)
        given = {"chunk_size": chunk_size, "dt_softplus": dt_softplus, "return_final_states": return_final_states, **options}
        return {**chosen(tensors, without), **given}

    return inputs


def probe(call: Call) -> Build:
    """Heads and states as large as those of the call, for kernels are compiled for them, and as many heads a group, up to 33."""
    several = min(call.size("heads_per_group", 2), 33)
    return build(
        SHORT if "short" in call.features else 37, nheads=several, ngroups=1, headdim=call.size("headdim", 16),
        d_state=call.size("d_state", 24), tokens=19 if "seq_idx" in call.features else 0, without=() if "z" in call.features else ("z",),
        D_per_channel="D_per_channel" in call.features,
    )  # fmt: skip


_case = functools.partial(build, batch=1, chunk_size=64)

SPEC = register(
    OpSpec(
        mamba_chunk_scan_combined,
        build,
        differentiable=("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_states"),
        float32=("A", "D", "dt_bias", "initial_states"),
        probe=probe,
        published=tuple(
            {"headdim": headdim, "d_state": d_state, "nheads": nheads, "ngroups": ngroups, "length": length, **more}
            for headdim, d_state, nheads, ngroups in (
                (64, 128, 24, 1), (64, 128, 80, 1), (64, 128, 128, 8), (128, 256, 24, 1), (64, 256, 48, 1),
            )
            for length, more in ((2048, {}), (2048, {"without": ("z",)}), (2048, {"tokens": 700, "without": ("z",)}), (8, {}))
        ),
        cases={
            "chunk borders": _case(BORDERS),
            "chunk borders, 2 x 16 heads": build(BORDERS, nheads=16, chunk_size=64),
            "tiny dt": _case(70, dt=-13.0),
            "huge dt": _case(70, dt=8.0),
            "large states": _case(70, size=1e4, decay=1e-3),
            "packed documents": _case(BORDERS, tokens=67),
            "packed documents, batch 2": build(75, tokens=19, without=("initial_states",), chunk_size=32, return_final_states=False),
            "odd sizes": _case(131, nheads=3, headdim=9, ngroups=1, d_state=5),
            "views of one tensor, batch 3": build(67, 3, one_tensor=True),
            "no options": build(
                67, without=("D", "z", "dt_bias", "initial_states"), chunk_size=32, dt_softplus=False, return_final_states=False
            ),
            "states, no gate": build(40, ngroups=4, without=("z",), chunk_size=32),
            "D by channel, limited dt": build(40, D_per_channel=True, dt_limit=(0.05, 0.2), chunk_size=32),
            "5 tokens": build(5),
            "1 token": build(1),
            "a model's sizes": _case(
                70, nheads=2, headdim=64, ngroups=1, d_state=128, without=("z", "initial_states"), return_final_states=False
            ),
        },
        forward_cases={
            "1,100 tokens, slow decay": _case(1100, nheads=2, dt=-4.0, decay=0.01),
            "ends of sequences": _case(
                75, ngroups=1, borders=(0, 25, 26, 75), documents=[0] * 25 + [1] + [2] * 49, without=("initial_states", "z"),
                return_varlen_states=True,
            ),
        },
        bench=tuple(
            Bench(
                f"B{batch}-L{length}-H{nheads}-P64-N128",
                {
                    "batch": batch, "length": length, "nheads": nheads, "headdim": 64, "d_state": 128, "ngroups": 1, "dt": -4.0,
                    "fresh": True, "chunk_size": 256, "without": ("initial_states",), "return_final_states": False,
                },
                **more,
            )
            for batch, length, nheads, more in (
                (1, 2048, 24, {}),
                (1, 512, 24, {"dtypes": ("float32",), "quick": True}),
                (8, 2048, 80, on_cuda((1.023, 4.153), (1.2, 1.5))),
                (1, 8192, 80, on_cuda((1.156, 4.759), (1.2, 1.5))),
                (8, 4096, 32, on_cuda((1.081, 4.192), (1.2, 1.5), quick=True)),
            )
        ),
    )
)  # fmt: skip
