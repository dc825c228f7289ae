"""Realistic and hostile inputs of every op: long sequences, tiny and huge step sizes, states that grow, borders of every chunk size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from anymamba.backends import probes
from anymamba.backends.probes import Probe, Random


@dataclass(frozen=True)
class Case:
    """build: makes the inputs in float64. grad: compare gradients too."""

    op: str
    name: str
    build: Callable[[Random], Probe]
    grad: bool = True


_BORDERS = 261
"""Tokens that cross the borders of chunks of 16 to 256 tokens, and end just after one."""


def _scan(
    length: int,
    batch: int = 1,
    dim: int = 20,
    states: int = 16,
    dt: float = -2.0,
    decay: float = 1.0,
    size: float = 1.0,
) -> Callable[[Random], Probe]:
    """dt: mean of delta before softplus. decay: factor on A. size: factor on u."""

    def build(random: Random) -> Probe:
        inputs = {
            "u": (random(batch, length, dim) * size).transpose(1, 2),
            "delta": (random(batch, length, dim) * 0.5).transpose(1, 2),
            "A": -random(dim, states).exp() * decay,
            "B": random(batch, length, states).transpose(1, 2),
            "C": random(batch, length, states).transpose(1, 2),
            "D": random(dim),
            "z": random(batch, length, dim).transpose(1, 2),
            "delta_bias": random(dim) * 0.1 + dt,
        }
        options = {"delta_softplus": True, "return_last_state": True}
        return Probe(inputs, differentiable=tuple(inputs), float32=("A", "D", "delta_bias"), options=options)

    return build


def _ssd(
    length: int, heads: int = 4, headdim: int = 16, groups: int = 2, states: int = 24, dt: float = -2.0, decay: float = 1.0,
    size: float = 1.0, documents: bool = False,
) -> Callable[[Random], Probe]:  # fmt: skip
    def build(random: Random) -> Probe:
        inputs = {
            "x": random(1, length, heads, headdim) * size,
            "dt": random(1, length, heads) * 0.5,
            "A": -random(heads).exp() * decay,
            "B": random(1, length, groups, states),
            "C": random(1, length, groups, states),
            "D": random(heads),
            "z": random(1, length, heads, headdim),
            "dt_bias": random(heads) * 0.1 + dt,
            "initial_states": random(1, heads, headdim, states),
        }
        names = tuple(inputs)
        if documents:
            ids = torch.arange(length).div(67, rounding_mode="floor").int()
            inputs["seq_idx"] = ids[None]
        options = {"chunk_size": 64, "dt_softplus": True, "return_final_states": True}
        return Probe(inputs, differentiable=names, float32=("A", "D", "dt_bias", "initial_states"), options=options)

    return build


def _conv(length: int, width: int, size: float = 1.0, states: bool = False) -> Callable[[Random], Probe]:
    def build(random: Random) -> Probe:
        inputs = {"x": (random(2, length, 20) * size).transpose(1, 2), "weight": random(20, width), "bias": random(20)}
        options = {"activation": "silu"}
        if states:
            inputs["initial_states"] = random(2, width - 1, 20).transpose(1, 2)
            options["return_final_states"] = True  # type: ignore[assignment]
        return Probe(inputs, differentiable=tuple(inputs), options=options)

    return build


def _norm(rows: int, size: int, scale: float, gated: bool) -> Callable[[Random], Probe]:
    def build(random: Random) -> Probe:
        inputs = {"x": random(1, rows, size) * scale, "weight": random(size), "bias": None}
        if gated:
            inputs["z"] = random(1, rows, size)
            return Probe(inputs, differentiable=("x", "weight", "z"), options={"norm_before_gate": False})
        inputs["residual"] = random(1, rows, size) * scale
        return Probe(inputs, differentiable=("x", "weight", "residual"), options={"prenorm": True})

    return build


CASES: tuple[Case, ...] = (
    *(Case(op, "typical", build, grad=not op.endswith("_update")) for op, build in probes.PROBES.items()),
    Case("selective_scan_fn", "chunk borders", _scan(_BORDERS)),
    Case("selective_scan_fn", "1,100 tokens, slow decay", _scan(1100, dim=8, dt=-4.0, decay=0.01), grad=False),
    Case("selective_scan_fn", "tiny dt", _scan(131, dt=-13.0)),
    Case("selective_scan_fn", "huge dt", _scan(131, dt=40.0)),
    Case("selective_scan_fn", "large states", _scan(131, size=1e4, decay=1e-3)),
    Case("selective_scan_fn", "one state, odd channels", _scan(131, dim=13, states=1)),
    Case("selective_scan_fn", "64 states", _scan(131, dim=7, states=64)),
    Case("mamba_chunk_scan_combined", "chunk borders", _ssd(_BORDERS)),
    Case("mamba_chunk_scan_combined", "1,100 tokens, slow decay", _ssd(1100, heads=2, dt=-4.0, decay=0.01), grad=False),
    Case("mamba_chunk_scan_combined", "tiny dt", _ssd(131, dt=-13.0)),
    Case("mamba_chunk_scan_combined", "huge dt", _ssd(131, dt=8.0)),
    Case("mamba_chunk_scan_combined", "large states", _ssd(131, size=1e4, decay=1e-3)),
    Case("mamba_chunk_scan_combined", "packed documents", _ssd(_BORDERS, documents=True)),
    Case("mamba_chunk_scan_combined", "odd sizes", _ssd(131, heads=3, headdim=9, groups=1, states=5)),
    Case("causal_conv1d_fn", "chunk borders", _conv(_BORDERS, 4)),
    Case("causal_conv1d_fn", "width 3 with states", _conv(131, 3, states=True)),
    Case("causal_conv1d_fn", "large inputs", _conv(131, 4, size=1e4)),
    Case("rms_norm_fn", "large inputs", _norm(7, 300, 1e4, gated=False)),
    Case("rms_norm_fn", "tiny inputs", _norm(7, 300, 1e-4, gated=False)),
    Case("rmsnorm_fn", "large inputs", _norm(7, 300, 1e4, gated=True)),
)
