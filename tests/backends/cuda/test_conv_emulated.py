"""The convolution's kernels on a processor, as in test_scan_emulated, against the reference."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from tests.backends.cuda.test_scan_emulated import EmulatedKernel

from anymamba.backends.cuda import causal_conv1d, causal_conv1d_launch, nvrtc
from anymamba.reference.causal_conv1d import causal_conv1d_fn as exact

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

ALLOWED = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(autouse=True)
def emulated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(file: str, entry: str, defines: Mapping[str, object], device: torch.device) -> EmulatedKernel:
        return EmulatedKernel(folder, file, entry, defines)

    monkeypatch.setattr(nvrtc, "kernel", kernel)
    monkeypatch.setattr(causal_conv1d_launch, "processors", lambda device: 4)


QUICK = [
    ((2, 5, 300), 4, torch.bfloat16, "length", True, True),
    ((2, 10, 70), 3, torch.float32, "channels", True, False),
]
SLOW = [
    ((1, 3, 7), 4, torch.bfloat16, "length", True, True),
    ((3, 4, 61), 2, torch.float16, "length", False, True),
    ((2, 3, 530), 4, torch.float32, "length", True, True),
    ((1, 2, 1000), 8, torch.float32, "length", True, False),
    ((9, 3, 1001), 8, torch.bfloat16, "length", True, True),
    ((20, 70, 300), 4, torch.bfloat16, "length", True, True),
    ((2, 6, 512), 1, torch.bfloat16, "length", True, True),
    ((1, 1, 1), 4, torch.float32, "length", True, True),
    ((2, 264, 130), 4, torch.bfloat16, "channels", True, True),
    ((1, 7, 200), 4, torch.bfloat16, "channels", False, True),
    ((3, 6, 33), 8, torch.float16, "channels", True, True),
    ((1, 136, 5), 2, torch.float32, "channels", True, True),
    ((1, 132, 90), 8, torch.float32, "channels", True, True),
    ((1, 12, 1), 1, torch.float32, "channels", True, True),
    ((2, 5, 300), 4, torch.bfloat16, "gaps", True, True),
    ((2, 12, 70), 4, torch.float32, "gap channels", True, True),
]


@pytest.mark.parametrize(
    "sizes,width,dtype,layout,has_bias,silu", [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_emulated_convolutions_reproduce_the_reference(
    sizes: tuple[int, int, int], width: int, dtype: torch.dtype, layout: str, has_bias: bool, silu: bool
) -> None:
    torch.manual_seed(0)
    batch, channels, length = sizes

    def rows() -> torch.Tensor:
        if "channels" in layout:
            extra = 6 if "gap" in layout else 0
            return torch.randn(batch, length, channels + extra).to(dtype)[..., :channels].mT
        return torch.randn(batch, channels, length + (5 if layout == "gaps" else 0)).to(dtype)[..., :length]

    x, dout = rows().requires_grad_(), rows()
    weight = torch.randn(channels, width).requires_grad_()
    bias = torch.randn(channels).to(dtype).requires_grad_() if has_bias else None
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    wide: list[Any] = [None if leaf is None else leaf.detach().double().requires_grad_() for leaf in (x, weight, bias)]
    activation = "silu" if silu else None
    want, last = exact(*wide, return_final_states=True, activation=activation)
    got, states = causal_conv1d.causal_conv1d_fn(x, weight, bias, return_final_states=True, activation=activation)
    assert torch.equal(states.double(), last)
    expected = torch.autograd.grad(want, [leaf for leaf in wide if leaf is not None], dout.double())
    found = torch.autograd.grad(got, leaves, dout)
    for name, a, b in zip(("out", "x", "weight", "bias"), (got, *found), (want, *expected)):
        assert (a.double() - b).norm() <= ALLOWED[a.dtype] * b.norm() + 1e-30, name
