"""mamba_inner_fn: fused where a backend has it, composed of the other ops elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.ops import layouts
from tests.ops.harness import Case, backends, check, device_of, parametrize, skip_unless_here

from anymamba import ops
from anymamba.backends import dispatch, selfcheck
from anymamba.backends.opspec import Build
from anymamba.ops.mamba_inner import SPEC, build, mamba_inner
from anymamba.reference import mamba_inner as exact

RMS = ("b_rms_weight", "c_rms_weight", "dt_rms_weight")


def inner(length: int = 21, **options: Any) -> Build:
    return build(length, **{"dim": 10, "d_state": 6, "d_model": 5, "layout": "rows", **options})


CASES = [
    Case("mamba_inner_fn", name, build, {"xz": layouts.channels_last}, slack=2)
    for name, build in [
        ("plain", inner()),
        ("no-bias", inner(bias=False, given=())),
        ("keep-all", inner(checkpoint_lvl=0)),
        ("length1", inner(length=1)),
        ("proj-biases", inner(given=("D", "delta_bias", "B_proj_bias", "C_proj_bias"))),
        ("rms", inner(given=("D", "delta_bias", "B_proj_bias", *RMS))),
        ("constant-B", inner(constant="B")),
        ("constant-BC", inner(constant="BC")),
        ("complex", inner(complex_A=True)),
        ("complex-rms", inner(complex_A=True, given=("C_proj_bias", *RMS))),
        ("complex-constant-C", inner(complex_A=True, constant="C")),
    ]
]


@parametrize(CASES)
def test_inner(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def built(**options: Any) -> dict[str, Any]:
    return inner(layout="channels", **options)(lambda *shape: torch.randn(*shape))


def test_checkpoint_lvl_changes_no_gradient() -> None:
    inputs = built(given=("D", "delta_bias", *RMS))
    results = []
    for level in (0, 1):
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items() if tensor is not None}
        out = ops.mamba_inner_fn(**{**inputs, **leaves}, checkpoint_lvl=level)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves.values())])
    for kept, recomputed in zip(*results):
        torch.testing.assert_close(kept, recomputed)


def test_checkpoint_lvl_saves_memory() -> None:
    """What stays alive between forward and backward is xz and the weights, not the scan's inputs."""
    inputs = built(length=256, dim=32)
    inputs["xz"] = inputs["xz"].detach().requires_grad_()
    kept = []
    for level in (0, 1):
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = ops.mamba_inner_fn(**inputs, checkpoint_lvl=level)
        kept.append(sum(sizes.values()))
        del out
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize("level", [0, 1])
def test_autocast_runs_the_projections_in_16_bits(level: int) -> None:
    inputs = built()
    inputs["xz"] = inputs["xz"].detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.mamba_inner_fn(**inputs, checkpoint_lvl=level)
    assert out.dtype == torch.bfloat16
    want = exact.mamba_inner_fn(**{n: v.double() if isinstance(v, torch.Tensor) else v for n, v in inputs.items()})
    torch.testing.assert_close(out.double(), want, rtol=0.1, atol=0.05 * want.abs().max().item())
    out.float().sum().backward()
    assert inputs["xz"].grad.isfinite().all()


def test_16_bit_activations_with_float32_weights() -> None:
    inputs = built()
    out = ops.mamba_inner_fn(**{**inputs, "xz": inputs["xz"].bfloat16()})
    assert out.dtype == torch.bfloat16


def test_reference_gradients() -> None:
    build_inputs = inner(given=("D", "delta_bias", "C_proj_bias", *RMS), length=4, batch=1, dim=4)
    inputs = build_inputs(lambda *s: torch.randn(*s).double())
    names = SPEC.gradients(inputs)
    leaves = [inputs[name].requires_grad_() for name in names]

    def function(*given: torch.Tensor) -> torch.Tensor:
        arguments = dict(zip(names, given))
        return exact.mamba_inner_fn(**{**arguments, "xz": arguments["xz"].mT})

    assert torch.autograd.gradcheck(function, leaves)


def test_nothing_to_do() -> None:
    assert ops.mamba_inner_fn(**built(length=0)).shape == (2, 0, 5)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("backend", backends())
def test_masked_tokens_add_nothing(backend: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left padding in front of one row: output and gradients of the tokens are those of the text alone, in float64."""
    skip_unless_here(backend)
    monkeypatch.setattr(selfcheck, "passed", lambda *_: (True, "checked by this test"))
    dispatch.forget()
    device, padding = device_of(backend), 6
    given = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in built(checkpoint_lvl=level).items()}
    with torch.no_grad():
        given["xz"][0, :10, :padding] = 0  # as models zero them in front of the convolution, of which the bias is left
    names = SPEC.gradients(given)
    mask = torch.ones(2, given["xz"].shape[2], device=device)
    mask[0, :padding] = 0
    leaves = {name: given[name].detach().clone().requires_grad_() for name in names}
    out = mamba_inner(**{**given, **leaves}, mask=mask, backend=backend)
    (out.square() * mask[..., None]).sum().backward()
    alone = {name: given[name].detach().double().requires_grad_() for name in names}
    texts = alone["xz"][:1, :, padding:], alone["xz"][1:]
    rows = [exact.mamba_inner_fn(**{**given, **alone, "xz": text}) for text in texts]
    sum(row.square().sum() for row in rows).backward()
    torch.testing.assert_close(out[0, padding:].double(), rows[0][0], rtol=1e-4, atol=1e-4 * rows[0].abs().max().item())
    torch.testing.assert_close(out[1].double(), rows[1][0], rtol=1e-4, atol=1e-4 * rows[1].abs().max().item())
    for name in names:
        got, want = leaves[name].grad, alone[name].grad
        assert got is not None and want is not None
        if name == "xz":  # what the mixer masks in front of the convolution has no gradient there
            got = torch.cat([got[:, :10] * mask[:, None], got[:, 10:]], 1)
        assert (got.double() - want).norm() <= 1e-4 * want.norm(), name
    dispatch.forget()
