"""The Mamba-1 kernels at every vector width: against the reference, without copies, the same every time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.backends.cpu.kernel_checks import WIDTHS, Copies, assert_close, dirty_scratch, lanes, run
from torch import Tensor

from anymamba.backends.cpu.jit import target
from anymamba.backends.cpu.jit.compile import compile_kernel
from anymamba.backends.cpu.scan import selective_scan, selective_state_update
from anymamba.backends.cpu.scan.selective_scan_backward import backward
from anymamba.backends.cpu.scan.selective_scan_forward import forward
from anymamba.backends.cpu.scan.selective_scan_task import TILE, Options
from anymamba.reference import selective_scan as exact_scan
from anymamba.reference import selective_state_update as exact_step

CASES = {
    # batch, channels, length, d_state, groups
    "tails-everywhere": (2, 21, TILE + 5, 16, 1),
    "one-step": (1, 70, 1, 3, 1),
    "groups": (2, 33, 2 * TILE, 5, 3),
    "many-states": (1, 5, 9, 70, 1),
    "many-blocks": (1, 500, 7, 2, 1),
}


def scan_inputs(batch: int, channels: int, length: int, states: int, groups: int) -> dict[str, Tensor]:
    def sequence(*inner: int) -> Tensor:
        return torch.randn(batch, length, *inner).movedim(1, -1)

    return {
        "u": sequence(channels), "delta": sequence(channels), "A": -torch.randn(channels, states).exp(),
        "B": sequence(groups, states), "C": sequence(groups, states), "D": torch.randn(channels), "z": sequence(channels),
        "delta_bias": torch.randn(channels) - 1,
    }  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CASES)
def test_scan(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = scan_inputs(*CASES[name])
    exact = run(exact_scan.selective_scan_fn, inputs, torch.float64, delta_softplus=True)
    with lanes(width, monkeypatch):
        run(selective_scan.selective_scan_fn, inputs, torch.float32, delta_softplus=True)
        dirty_scratch()
        got = run(selective_scan.selective_scan_fn, inputs, torch.float32, delta_softplus=True)
    assert_close(got, exact, 1e-5)


IDS = torch.tensor([-1, 4, 4, 4, 2, -1, 2, 3, *[5] * (TILE - 8), 6, 6, 6, -1, 7])
"""Documents that start inside a tile and at its first token; padding at every place."""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("options", [("states",), ("documents",), ("states", "documents")])
def test_from_a_state_and_of_documents(options: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = scan_inputs(2, 21, len(IDS), 11, 1)
    if "states" in options:
        inputs["initial_states"] = torch.randn(2, 21, 11)
    if "documents" in options:
        inputs["seq_idx"] = IDS.expand(2, -1).clone()
        inputs["seq_idx"][1] = inputs["seq_idx"][1].roll(3)
    exact = run(exact_scan.selective_scan_fn, inputs, torch.float64, delta_softplus=True)
    with lanes(width, monkeypatch):
        run(selective_scan.selective_scan_fn, inputs, torch.float32, delta_softplus=True)
        dirty_scratch()
        got = run(selective_scan.selective_scan_fn, inputs, torch.float32, delta_softplus=True)
    assert_close(got, exact, 1e-5)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("channels_first", [False, True])
def test_bfloat16_scan(channels_first: bool, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {name: value.bfloat16().float() for name, value in scan_inputs(2, 21, TILE + 5, 16, 1).items()}
    if channels_first:
        inputs = {name: value.contiguous() for name, value in inputs.items()}
    exact = run(exact_scan.selective_scan_fn, inputs, torch.float64, delta_softplus=True)
    with lanes(width, monkeypatch):
        got = run(selective_scan.selective_scan_fn, inputs, torch.bfloat16, delta_softplus=True)
    assert_close(got, exact, 2e-2)


def step_inputs(heads: bool, tied: bool) -> dict[str, Any]:
    inner = (4, 21) if heads else (84,)
    batch, rows, states, groups = 3, 5, 19, 2
    inputs: dict[str, Any] = {
        "state": torch.randn(rows, *inner, states), "x": torch.randn(batch, *inner), "dt": torch.randn(batch, *inner),
        "A": -torch.randn(*inner, states).exp(), "B": torch.randn(batch, groups, states), "C": torch.randn(batch, groups, states),
        "D": torch.randn(*inner), "z": torch.randn(batch, *inner), "dt_bias": torch.randn(*inner),
        "state_batch_indices": torch.tensor([4, -1, 0], dtype=torch.int32),
    }  # fmt: skip
    if tied:
        inputs["A"] = inputs["A"][:, :1, :1].expand(*inner, states)
        for name in ("dt", "dt_bias", "D"):
            inputs[name] = inputs[name][..., :1].expand(*inputs[name].shape)
    return inputs


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("heads", "tied"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step(dtype: torch.dtype, heads: bool, tied: bool, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = step_inputs(heads, tied)
    inputs["state"], inputs["x"] = inputs["state"].to(dtype), inputs["x"].to(dtype)
    exact_inputs = {name: v.double() if v.is_floating_point() else v for name, v in inputs.items()}
    exact = exact_step.selective_state_update(**exact_inputs, dt_softplus=True)
    with lanes(width, monkeypatch):
        dirty_scratch()
        got = selective_state_update.selective_state_update(**inputs, dt_softplus=True)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    assert_close([got, inputs["state"]], [exact, exact_inputs["state"]], tolerance)
    assert not got[1].any(), "a padding row is zero"


def test_views_are_not_copied() -> None:
    projected = torch.randn(2, 64, 300)
    inputs = scan_inputs(2, 96, 64, 16, 1)
    u, B, C = (part.mT for part in projected.split([96, 16, 16, 172], dim=-1)[:3])
    inputs.update(u=u, B=B, C=C, z=projected[..., 204:].mT)
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    cotangent = torch.randn(2, 64, 96).mT
    with Copies() as copies:
        out = selective_scan.selective_scan_fn(**leaves, delta_softplus=True)
        torch.autograd.grad(out, list(leaves.values()), cotangent)
    assert copies.largest <= inputs["A"].numel()


def test_gradients_lie_like_their_inputs() -> None:
    for layout in (lambda x: x, lambda x: x.contiguous()):
        inputs = {name: layout(value) for name, value in scan_inputs(2, 20, 12, 4, 1).items()}
        leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
        out = selective_scan.selective_scan_fn(**leaves)
        gradients = torch.autograd.grad(out, [leaves["u"], leaves["delta"], leaves["z"]], torch.ones_like(out))
        for got in (out, *gradients):
            assert got.stride() == inputs["u"].stride()


@pytest.mark.parametrize("threads", [1, 2])
def test_deterministic(threads: int) -> None:
    inputs = scan_inputs(1, 200, 100, 16, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (run(selective_scan.selective_scan_fn, inputs, torch.float32, delta_softplus=True) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_code_for_arm64() -> None:
    names = ("bfloat16", "float32", "float16", "float32", "bfloat16")
    options = Options(*names, state=16, D=True, delta_bias=True, delta_softplus=True, initial=True, documents=True)
    step = selective_state_update._Options(
        *(torch.float32, torch.bfloat16, torch.float16, torch.float32, torch.bfloat16, torch.float32, torch.int64),
        16, D=True, D_tied=False, dt_bias=True, dt_softplus=True, tied=False,
    )  # fmt: skip
    for build, given in ((forward, (options, True, True)), (backward, (options,)), (selective_state_update.step, (step,))):
        _, code = compile_kernel(build, given, target.NEON)
        assert code[:4] == b"\x7fELF" and code[18:20] == b"\xb7\x00", "an object file for AArch64"
