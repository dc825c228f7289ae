"""The Mamba-1 selective scan over a sequence."""

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
from anymamba.ops.calls.inputs import BORDERS, chosen, sequence
from anymamba.ops.calls.inputs import documents as packed
from anymamba.ops.calls.remembered import keep, remembered
from anymamba.reference import selective_scan as exact


def _shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, return_last_state: bool, **other: Any) -> list[Tensor]:
    optional = [other[name] for name in ("D", "z", "delta_bias")]
    real = compiled.state_dtype(u, delta, A, B, C, *optional)
    dtype = real.to_complex() if A.is_complex() else real
    state = [torch.empty(u.shape[0], *A.shape, dtype=dtype, device=u.device)] if return_last_state else []
    return [compiled.same_layout(u), *state]


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t];  out[t] = (C[t] . h[t] + D u[t]) * silu(z[t]).

    Source: Mamba, section 3.2, equations 2 and 4; ``selective_scan_fn`` of mamba_ssm. From a state, and of packed documents:
    ``anymamba.ops.selective_scan.selective_scan``, which this calls.

    u, delta, z: (batch, dim, length), fp32, bf16, fp16 or fp64, any strides (channels or time contiguous is fastest).
    A: (dim, d_state), real, or complex64. B, C, each: (batch, d_state, length), (batch, ngroups, d_state, length) with ngroups dividing
    dim, or (dim, d_state) constant in time; with complex A the first two have 2 * length columns (real and imaginary part of each
    token side by side), the third is complex. D, delta_bias: (dim,).
    delta_softplus: delta becomes softplus(delta + delta_bias).

    Returns out, shaped and typed like u, or (out, last_state (batch, dim, d_state)) in float32 (complex64; float64 inputs: float64);
    last_state passes no gradient on. Differentiable in every tensor argument. State and decay are kept in float32.

    Raises ArgumentError (shapes), ArgumentTypeError (dtypes, devices), BackendError.
    """
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend=backend)


@compiled.as_node(_shapes, op="selective_scan_fn")
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``selective_scan_fn`` of pieces of a text and of packed documents; its arguments, and what Mamba-2's scan has beyond them.

    initial_states: (batch, dim, d_state), real (with complex A also complex): the state before token 0; None: zero.
    seq_idx: (batch, length) integers, the document of each token: a new id starts from a state of zero, initial_states belong to the
    first document; negative is padding, as if the token were not there: output 0, the state passes.
    cu_seqlens: (sequences + 1,) integers, in place of seq_idx where batch is 1: the borders of the documents, from 0 to length.

    Returns what selective_scan_fn returns; last_state is that of the last document and passes no gradient on: pieces are where
    backpropagation through a long text is truncated. Differentiable in every floating argument, initial_states too.

    Raises ArgumentError (shapes, borders, both seq_idx and cu_seqlens), ArgumentTypeError (dtypes, devices), BackendError.
    """
    op = "selective_scan_fn"
    flags = bool(delta_softplus), bool(return_last_state)  # callers pass other falsy values than False
    key = function = None
    if cu_seqlens is None:  # borders are checked by their values
        key, function = remembered(op, (u, delta, A, B, C, D, z, delta_bias, initial_states, seq_idx), flags, backend)
    if function:
        return function(u, delta, A, B, C, D, z, delta_bias, *flags, *_beyond_upstream(initial_states, seq_idx))
    required = {"u": u, "delta": delta, "A": A, "B": B, "C": C}
    optional = {"D": D, "z": z, "delta_bias": delta_bias, "initial_states": initial_states}
    grad = checks.tensors(op, required, optional, {"seq_idx": seq_idx, "cu_seqlens": cu_seqlens}, complex_allowed=True)
    checks.shape(op, "u", u, "(batch, dim, length)", (-1, -1, -1))
    batch, dim, length = u.shape
    checks.shape(op, "delta", delta, "(batch, dim, length)", (batch, dim, length))
    checks.shape(op, "A", A, "(dim, d_state)", (dim, -1))
    d_state = A.shape[1]
    checks.value(op, "d_state", d_state, d_state >= 1, ">= 1")
    ngroups = max(_check_matrix(op, name, M, A, batch, length) for name, M in (("B", B), ("C", C)))
    checks.shape(op, "D", D, "(dim,)", (dim,))
    checks.shape(op, "z", z, "(batch, dim, length)", (batch, dim, length))
    checks.shape(op, "delta_bias", delta_bias, "(dim,)", (dim,))
    checks.shape(op, "initial_states", initial_states, "(batch, dim, d_state)", (batch, dim, d_state))
    checks.shape(op, "seq_idx", seq_idx, "(batch, length)", (batch, length))
    for name, tensor in (("u", u), ("delta", delta), ("z", z), ("D", D), ("delta_bias", delta_bias)):
        checks.real(op, name, tensor)
    if not A.is_complex():
        checks.real(op, "initial_states", initial_states)
    if cu_seqlens is not None:
        seq_idx = _documents_between(op, cu_seqlens, seq_idx, batch, length)
    arguments = (u, delta, A, B, C, D, z, delta_bias, *flags, *_beyond_upstream(initial_states, seq_idx))
    if not u.numel():
        return exact.selective_scan_fn(*arguments)
    if torch.compiler.is_compiling():
        return compiled.run(op, (*arguments[:10], initial_states, seq_idx, None), backend)
    features = checks.features(
        D=D, z=z, delta_bias=delta_bias, delta_softplus=flags[0], return_last_state=flags[1], initial_states=initial_states,
        seq_idx=seq_idx, complex_A=A.is_complex(), constant_B=B.dim() == 2, constant_C=C.dim() == 2, groups=ngroups > 1,
        length_contiguous=u.stride(2) == 1 and u.stride(1) != 1, aligned=checks.aligned(u, delta, z),
        mixed_dtype=checks.mixed(u, delta, z, B if B.dim() > 2 else None, C if C.dim() > 2 else None),
    )  # fmt: skip
    features |= checks.other_dtypes(
        u.dtype, {"delta": delta, "B": B, "C": C, "z": z}, {"A": A.real, "D": D, "delta_bias": delta_bias}
    )
    sizes = (("batch", batch), ("d_state", d_state), ("dim", dim), ("length", length), ("ngroups", ngroups))
    call = Call(op, u.device, u.dtype, grad, features, sizes)
    choice = choose(call, backend)
    keep(key, call, choice, arguments)
    return choice.function(*arguments)


def _beyond_upstream(initial_states: Tensor | None, seq_idx: Tensor | None) -> tuple[Any, ...]:
    """The arguments that a backend gets only where they are used, so that one that has no more than upstream's serves all other calls."""
    return () if initial_states is None and seq_idx is None else (initial_states, seq_idx)


def _documents_between(op: str, cu_seqlens: Tensor, seq_idx: Tensor | None, batch: int, length: int) -> Tensor:
    """seq_idx (1, length) of documents with these borders."""
    if seq_idx is not None or batch != 1:
        actual = f"cu_seqlens {tuple(cu_seqlens.shape)}, seq_idx {None if seq_idx is None else tuple(seq_idx.shape)}, batch = {batch}"
        expected = _("cu_seqlens alone, batch = 1")
        raise ArgumentError(
            "value", _("{op}: {value}; expected {expected}").format(op=op, value=actual, expected=expected)
        )
    checks.borders(op, "cu_seqlens", cu_seqlens, length, all_tokens=True)
    tokens = torch.arange(length, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), tokens, right=True).to(torch.int32)[None]


def _check_matrix(op: str, name: str, matrix: Tensor, A: Tensor, batch: int, length: int) -> int:
    """Shape and dtype of B or C; returns its number of groups."""
    dim, d_state = A.shape
    columns, last = (2 * length, "2 * length") if A.is_complex() else (length, "length")
    if matrix.dim() == 2:
        checks.shape(op, name, matrix, "(dim, d_state)", (dim, d_state))
        checks.value(op, f"{name}.dtype", matrix.dtype, matrix.is_complex() == A.is_complex(), f"{A.dtype} (A)")
        return 1
    checks.real(op, name, matrix)
    if matrix.dim() == 3:
        checks.shape(op, name, matrix, f"(batch, d_state, {last})", (batch, d_state, columns))
        return 1
    checks.shape(op, name, matrix, f"(batch, ngroups, d_state, {last})", (batch, -1, d_state, columns))
    checks.divides(op, f"ngroups ({name})", matrix.shape[1], "dim", dim)
    return matrix.shape[1]


def build(
    length: int = 37, batch: int = 2, dim: int = 20, d_state: int = 16, ngroups: int = 0, without: tuple[str, ...] = (),
    constant: str = "", complex_A: bool = False, layout: str = "channels", dt: float = -2.0, decay: float = 1.0, size: float = 1.0,
    fresh: bool = False, delta_softplus: bool = True, states: bool = False, tokens: int = 0, documents: Sequence[int] | None = None,
    **options: Any,
) -> Build:  # fmt: skip
    """ngroups 0: B and C without that dimension. constant: which of "BC" do not depend on time. layout: of u, delta, z, B, C, see
    inputs.sequence. dt: mean of delta before softplus. decay, size: factors on A and u. fresh: A, D and step sizes as a model has
    them before training. states: from initial states. tokens: of each document of a packed row, 0: not packed; documents: seq_idx
    itself."""

    def inputs(random: Random) -> Arguments:
        def wide(*shape: int) -> Tensor:
            return sequence(random, batch, length, *shape, layout=layout)

        def matrix(name: str) -> Tensor:
            if name in constant:
                return torch.complex(random(dim, d_state), random(dim, d_state)) if complex_A else random(dim, d_state)
            groups = (ngroups,) if ngroups else ()
            return random(batch, *groups, d_state, 2 * length) if complex_A else wide(*groups, d_state)

        A = -random(dim, d_state).exp() * decay
        if fresh:
            A = -torch.arange(1, d_state + 1).to(A).repeat(dim, 1)
        delta, bias = wide(dim), random(dim)
        tensors = {
            "u": wide(dim) * size,
            # without softplus a negative step would make the state explode
            "delta": delta * 0.5 if delta_softplus else delta.abs() * 0.2,
            "A": torch.complex(A, 3 * random(dim, d_state)) if complex_A else A,
            "B": matrix("B"),
            "C": matrix("C"),
            "D": torch.ones_like(bias) if fresh else random(dim),
            "z": wide(dim),
            "delta_bias": bias * (1.0 if fresh else 0.1) + dt if delta_softplus else bias.abs() * 0.25,
        }
        if states:
            real = random(batch, dim, d_state)
            tensors["initial_states"] = torch.complex(real, random(batch, dim, d_state)) if complex_A else real
        if tokens:
            tensors["seq_idx"] = packed(batch, length, tokens, 7)
        if documents is not None:
            tensors["seq_idx"] = torch.tensor(documents, dtype=torch.int32).expand(batch, -1)
        return {**chosen(tensors, without), "delta_softplus": delta_softplus, **options}

    return inputs


def probe(call: Call) -> Build:
    """As many states and groups, and the same side by side in memory; channels in eights, which the fastest kernels ask for."""
    groups = 2 if "groups" in call.features else 0
    constant = "".join(name for name in "BC" if f"constant_{name}" in call.features)
    layout = "length" if "length_contiguous" in call.features else "channels"
    return build(
        dim=256 if groups else 24, d_state=call.size("d_state", 16), ngroups=groups, layout=layout, constant=constant,
        states="initial_states" in call.features, tokens=9 if "seq_idx" in call.features else 0,
    )  # fmt: skip


_wide = functools.partial(build, layout="wide", return_last_state=True)
"""As the models have them."""

SPEC = register(
    OpSpec(
        selective_scan,
        build,
        differentiable=("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_states"),
        float32=("A", "D", "delta_bias", "initial_states"),
        beyond_upstream=("initial_states", "seq_idx", "cu_seqlens"),
        probe=probe,
        published=(
            {}, {"layout": "length"}, {"layout": "length", "ngroups": 4, "d_state": 1}, {"layout": "length", "ngroups": 4},
            {"batch": 1, "dim": 1536, "length": 2048}, {"batch": 8, "dim": 1536, "length": 2048}, {"batch": 8, "dim": 5120, "length": 2048},
            {"batch": 64, "dim": 1536, "length": 196, "ngroups": 4, "layout": "length", "d_state": 1, "without": ("z",)},
            {"states": True, "return_last_state": True}, {"tokens": 9},
        ),
        cases={
            "chunk borders": _wide(BORDERS, 1),
            "tiny dt": _wide(70, 1, dt=-13.0),
            "huge dt": _wide(70, 1, dt=40.0),
            "large states": _wide(70, 1, size=1e4, decay=1e-3),
            "one state, odd channels": _wide(37, 1, 13, d_state=1),
            "64 states": _wide(37, 1, 7, d_state=64),
            "a model's sizes": _wide(BORDERS, 1, 64),
            "a model's sizes, packed as wide rows": _wide(70, 2, 256, ngroups=2),
            "3 groups, batch 3": build(37, 3, 21, ngroups=3, layout="wide"),
            "length contiguous": build(67, 2, 19, layout="length"),
            "no options": build(37, without=("D", "z", "delta_bias"), delta_softplus=False, layout="wide"),
            "no gate": _wide(35, 2, 33, without=("z",)),
            "5 tokens": _wide(5),
            "1 token": _wide(1),
            "B and C constant": _wide(37, constant="BC"),
            "from a state": _wide(67, 2, 21, states=True),
            "1 token from a state": _wide(1, states=True),
            "from a state, length contiguous, 3 groups": build(67, 2, 21, ngroups=3, layout="length", states=True),
            "packed documents": _wide(BORDERS, 1, tokens=67),
            "packed documents from a state, batch 2": _wide(75, 2, 13, tokens=19, states=True),
            "documents of 1 token": _wide(9, 1, documents=tuple(range(9)), states=True),
            "padding between documents": build(12, 2, 21, documents=(-1, -1, 3, 3, -1, 3, 1, 1, -1, 2, 2, -1), states=True),
        },
        forward_cases={"1,100 tokens, slow decay": _wide(1100, 1, 8, dt=-4.0, decay=0.01)},
        bench=tuple(
            Bench(f"B{batch}-L{length}-D{dim}-N16", {"batch": batch, "length": length, "dim": dim, "dt": -4.0, "fresh": True}, **more)
            for batch, length, dim, more in (
                (1, 2048, 1536, {}),
                (1, 512, 1536, {"dtypes": ("float32",), "quick": True}),
                (8, 2048, 2048, on_cuda((0.590, 2.416), (1.5, 1.5))),
                (8, 2048, 5120, on_cuda((1.447, 6.039), (1.5, 1.5))),
                (1, 8192, 5120, on_cuda((0.924, 3.373), (1.5, 1.5))),
                (1, 2048, 1536, on_cuda((0.071, 0.302), (1.5, 1.5), quick=True)),
            )
        ),
    )
)
