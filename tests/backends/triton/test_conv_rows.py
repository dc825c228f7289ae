"""The convolution where time is contiguous: its kernels in Triton's interpreter under other plans than the rule's, beside memory that
must not be read, and what they compile to. The options that the public op has are tested in tests/ops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from tests.backends.triton import ahead_of_time

from anymamba.backends.triton.conv import causal_conv1d, causal_conv1d_rows

ROOT = Path(__file__).parents[3]

_INTERPRETED = """
import sys, torch
from anymamba.numerics.interpreted import switch_on

switch_on()  # the interpreter's quicker ways

from anymamba.backends.triton.conv.causal_conv1d_rows import ConvRowsPlan as RowsPlan, conv_rows_backward, conv_rows_forward
from anymamba.reference.causal_conv1d import causal_conv1d_fn as exact

torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
torch.manual_seed(0)

def poisoned(batch, channels, length, dtype, start, row, wide):
    # rows of a wider tensor, NaN around them
    whole = torch.full((start + batch * wide,), float("nan"), dtype=dtype)
    x = whole[start:].as_strided((batch, channels, length), (wide, row, 1), start)
    return x.copy_(torch.randn(batch, channels, length).to(dtype))

def check(
    plan, length, width, dtype=torch.float32, channels=5, row=None, wide=None, start=0,
    bias=True, initial=False, documents=False, silu=True,
):
    row = row or length
    x, dout = (poisoned(2, channels, length, dtype, start, row, wide or channels * row) for _ in range(2))
    weight = torch.randn(channels, width).to(dtype)
    bias = torch.randn(channels).to(dtype) if bias else None
    initial = torch.randn(2, channels, width - 1).to(dtype) if initial else None
    seq_idx = ((torch.arange(length) * 5 // 17 + 1) % 3 - 1).int().expand(2, -1) if documents else None
    given = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias, initial)]
    want = exact(given[0], given[1], given[2], seq_idx, given[3], activation="silu" if silu else None)
    want_grad = torch.autograd.grad(want, [t for t in given if t is not None], dout.double())
    got = conv_rows_forward(x, weight, bias, initial, seq_idx, silu, plan)
    grad = conv_rows_backward(dout, x, weight, bias, initial, seq_idx, silu, plan)
    limit = 4 * torch.finfo(dtype).eps
    for name, a, b in zip(("out", "x", "weight", "bias", "initial"), (got, *[g for g in grad if g is not None]), (want, *want_grad)):
        error = ((a.double() - b).abs().max() / b.abs().max()).item()
        assert error <= limit, (name, error, plan, length, width)  # written so that NaN fails
    again = conv_rows_backward(dout, x, weight, bias, initial, seq_idx, silu, plan)
    assert all(torch.equal(a, b) for a, b in zip(grad, again) if a is not None)

several = RowsPlan(group=4, block=8, rows=2, stretch=2, tile=2, warps=1)  # 16 steps of 2 rows at a time, 32 a program
quick = [
    lambda: check(several, 37, 4, channels=3, row=41, wide=150, start=1, initial=True, documents=True),
    lambda: check(several, 36, 4, channels=2, row=44, wide=100, start=4, initial=True),
    lambda: check(RowsPlan(8, 4, 1, 2, 2, 1), 41, 3, torch.float16, channels=1, bias=False),
    lambda: check(RowsPlan(1, 16, 4, 4, 4, 1), 18, 2, silu=False),
]
slow = [
    *(lambda length=length, width=width: check(several, length, width) for length, width in ((67, 4), (33, 2), (32, 1), (50, 8), (31, 5))),
    lambda: check(several, 67, 4, initial=True, documents=True),
    lambda: check(several, 64, 3, initial=True, bias=False),
    lambda: check(several, 2, 4, initial=True),
    lambda: check(several, 1, 8, initial=True, silu=False),
    lambda: check(several, 36, 4, row=44, wide=229, start=3, documents=True),
    lambda: check(RowsPlan(8, 32, 1, 1, 1, 1), 40, 4, torch.float16, initial=True),
    lambda: check(RowsPlan(8, 4, 1, 2, 2, 1), 99, 4, torch.float16, documents=True),
    lambda: check(RowsPlan(1, 16, 4, 4, 4, 1), 43, 4),
    lambda: check(RowsPlan(2, 16, 16, 2, 2, 1), 14, 4, initial=True),
    lambda: check(RowsPlan(16, 4, 2, 1, 1, 1), 80, 6),
]
for case in {"quick": quick, "slow": slow}[sys.argv[1]]:
    case()
"""


def _interpret(cases: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _INTERPRETED, cases], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


def test_plans_and_poisoned_neighbours() -> None:
    _interpret("quick")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_more_plans() -> None:
    _interpret("slow")


def _launched(length: int, channels: int = 48, dtype: torch.dtype = torch.bfloat16) -> list[ahead_of_time.Launch]:
    x = torch.empty(2, channels, length, dtype=dtype, device="meta", requires_grad=True)
    weight, bias = (torch.empty(*shape, dtype=dtype, device="meta") for shape in ((channels, 4), (channels,)))
    with ahead_of_time.launches() as found:
        out = causal_conv1d.causal_conv1d_fn(x, weight, bias, activation="silu")
        assert isinstance(out, torch.Tensor)
        assert out.stride() == x.stride()
        (dx,) = torch.autograd.grad(out, x, torch.empty_like(out))
        assert dx.stride() == x.stride()
    return found


def test_nothing_is_copied() -> None:
    assert [launch.name for launch in _launched(64)] == ["conv_rows_forward_kernel", "conv_rows_backward_kernel", "conv_sums_kernel"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lanes_read_and_write_16_bytes(dtype: torch.dtype) -> None:
    forward, backward = (ahead_of_time.compile_for(launch, "sm_90") for launch in _launched(2048, dtype=dtype)[:2])
    pieces = 2  # of a forward program's row, whose loads are in flight together
    assert forward.asm["ptx"].count("st.global.v4.b32") == pieces
    assert forward.asm["ptx"].count("ld.global.v4.b32") >= pieces
    assert backward.asm["ptx"].count("ld.global.v4.b32") >= 2
    assert backward.asm["ptx"].count("st.global.v4.b32") == 1
    assert ahead_of_time.registers_and_stack(forward)[0] <= 40
    assert ahead_of_time.registers_and_stack(backward)[0] <= 64


@pytest.mark.parametrize(
    "shape,strides,unit",
    [
        ((2, 3, 64), (192, 64, 1), 8),
        ((2, 3, 63), (189, 63, 1), 1),
        ((2, 3, 20), (60, 20, 1), 4),
        ((2, 3, 64), (193, 64, 1), 1),
        ((1, 3, 64), (193, 64, 1), 8),
        ((2, 3, 16), (0, 18, 1), 2),
    ],
)
def test_unit(shape: tuple[int, ...], strides: tuple[int, ...], unit: int) -> None:
    assert causal_conv1d_rows._unit(8, torch.empty_strided(shape, strides, device="meta")) == unit
