"""Realistic and hostile inputs of every op: long sequences, tiny and huge step sizes, states that grow, borders of every chunk size,
every option, layouts and sizes that no tile divides. Short wherever length is not the point: the whole table takes a minute."""

from __future__ import annotations

from dataclasses import dataclass

from anymamba.backends import probes
from anymamba.numerics.builders import Build, conv, conv_step, logits, norm, scan, ssd, state_step


@dataclass(frozen=True)
class Case:
    """build: makes the inputs in float64. grad: compare gradients too."""

    op: str
    name: str
    build: Build
    grad: bool = True


BORDERS = 261
"""Tokens that cross the borders of chunks of 16 to 256 tokens, and end just after one."""

_CASES: dict[str, dict[str, Build]] = {
    "selective_scan_fn": {
        "chunk borders": scan(BORDERS),
        "tiny dt": scan(70, dt=-13.0),
        "huge dt": scan(70, dt=40.0),
        "large states": scan(70, size=1e4, decay=1e-3),
        "one state, odd channels": scan(37, dim=13, states=1),
        "64 states": scan(37, dim=7, states=64),
        "a model's sizes": scan(BORDERS, dim=64),
        "a model's sizes, packed as wide rows": scan(70, batch=2, dim=256, groups=2),
        "3 groups, batch 3": scan(37, batch=3, dim=21, groups=3, last=False),
        "length contiguous": scan(67, batch=2, dim=19, contiguous=True, last=False),
        "no options": scan(37, batch=2, without=("D", "z", "delta_bias"), last=False),
        "no gate": scan(35, batch=2, dim=33, without=("z",)),
        "5 tokens": scan(5, batch=2),
        "1 token": scan(1, batch=2),
        "B and C constant": scan(37, batch=2, constant=True),
    },
    "mamba_chunk_scan_combined": {
        "chunk borders": ssd(BORDERS),
        "tiny dt": ssd(70, dt=-13.0),
        "huge dt": ssd(70, dt=8.0),
        "large states": ssd(70, size=1e4, decay=1e-3),
        "packed documents": ssd(BORDERS, documents=67),
        "packed documents, batch 2": ssd(75, batch=2, documents=19, without=("initial_states",), chunk=32, final=False),
        "odd sizes": ssd(131, heads=3, headdim=9, groups=1, states=5),
        "views of one tensor, batch 3": ssd(67, batch=3, one_tensor=True, chunk=16),
        "no options": ssd(67, batch=2, without=("D", "z", "dt_bias", "initial_states"), chunk=32, final=False),
        "states, no gate": ssd(40, batch=2, groups=4, without=("z",), chunk=32),
        "D by channel, limited dt": ssd(40, batch=2, wide_D=True, limit=(0.05, 0.2), chunk=32),
        "5 tokens": ssd(5, batch=2, chunk=16),
        "1 token": ssd(1, batch=2, chunk=16),
        "a model's sizes": ssd(70, heads=2, headdim=64, groups=1, states=128, without=("z", "initial_states"), final=False),
    },
    "causal_conv1d_fn": {
        "chunk borders": conv(BORDERS, 4),
        "width 3 with states": conv(67, 3, states=True),
        "width 2, no activation": conv(67, 2, activation=None, contiguous=True),
        "width 4 with states": conv(35, 4, states=True, batch=3, dim=13, bias=False),
        "large inputs": conv(67, 4, size=1e4),
        "length contiguous": conv(67, 4, contiguous=True, dim=33),
        "packed documents": conv(67, 4, documents=9),
        "2 tokens with states": conv(2, 4, states=True),
        "1 token": conv(1, 4),
    },
    "rms_norm_fn": {
        "large inputs": norm(7, 300, 1e4),
        "tiny inputs": norm(7, 300, 1e-4),
        "bias": norm(5, 33, bias=True),
        "no residual": norm(5, 64, without=("residual",)),
        "float32 residual": norm(5, 96, residual_in_fp32=True),
        "one row, not prenorm": norm(1, 1030, prenorm=False),
    },
    "layer_norm_fn": {
        "bias": norm(5, 33, bias=True),
        "no residual": norm(5, 64, without=("residual",)),
        "large inputs": norm(7, 300, 1e4, bias=True, prenorm=False),
    },
    "rmsnorm_fn": {
        "large inputs": norm(7, 300, 1e4, gated=True),
        "groups": norm(5, 96, gated=True, group=32),
        "norm before gate": norm(5, 33, gated=True, norm_first=True, bias=True),
        "no gate": norm(5, 64, gated=True, without=("z",)),
        "norm before gate, groups": norm(5, 64, gated=True, norm_first=True, group=16),
    },
    "layernorm_fn": {
        "bias": norm(5, 33, gated=True, bias=True),
        "norm before gate, groups": norm(5, 64, gated=True, norm_first=True, group=16, bias=True),
        "no gate": norm(5, 300, gated=True, without=("z",)),
    },
}

_FORWARD: dict[str, dict[str, Build]] = {
    "selective_scan_fn": {"1,100 tokens, slow decay": scan(1100, dim=8, dt=-4.0, decay=0.01)},
    "mamba_chunk_scan_combined": {
        "1,100 tokens, slow decay": ssd(1100, heads=2, dt=-4.0, decay=0.01),
        "ends of sequences": ssd(75, groups=1, varlen=True, without=("initial_states", "z")),
    },
    "causal_conv1d_update": {
        "batch 1, width 3": conv_step(3, batch=1, dim=13),
        "no activation, no bias": conv_step(4, batch=3, activation=None, bias=False),
        "width 2": conv_step(2),
        "3 tokens": conv_step(4, tokens=3),
        "longer state": conv_step(4, kept=7),
        "circular state": conv_step(4, kept=6, circular=True),
        "states by index": conv_step(4, indexed=True),
        "a wide layer": conv_step(4, batch=1, dim=1030),
    },
    "selective_state_update": {
        "Mamba-1": state_step(heads=0, headdim=37),
        "Mamba-1, batch 1": state_step(batch=1, heads=0, headdim=130, states=16, without=("z",)),
        "decay by head, batch 3": state_step(batch=3, own_A=False),
        "decay by head, a model's sizes": state_step(batch=1, heads=2, headdim=64, groups=1, states=128, own_A=False, without=("z",)),
        "no options": state_step(batch=3, without=("D", "z", "dt_bias")),
        "one state, odd channels": state_step(heads=3, headdim=7, groups=1, states=1),
        "tiny dt": state_step(dt=-13.0),
        "huge dt": state_step(dt=40.0),
        "large states": state_step(size=1e6),
        "states by index": state_step(indexed=True),
    },
    "log_softmax_and_slope": {
        "odd vocabulary": logits(5, 1030),
        "large logits": logits(5, 300, size=60.0),
        "far from zero": logits(3, 8200, shift=-3000.0),
        "only the log-probabilities": logits(5, 300, slope=False),
        "one word": logits(3, 1),
    },
}

CASES: tuple[Case, ...] = (
    *(Case(op, "typical", build, grad=not op.endswith("_update")) for op, build in probes.PROBES.items()),
    *(Case(op, name, build) for op, builds in _CASES.items() for name, build in builds.items()),
    *(Case(op, name, build, grad=False) for op, builds in _FORWARD.items() for name, build in builds.items()),
)
