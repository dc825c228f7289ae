"""mamba_inner_fn: fused where a backend has it, composed of the other ops elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.ops import layouts
from tests.ops.harness import Case, check, parametrize

from anymamba import ops
from anymamba.backends.opspec import Build
from anymamba.ops.mamba_inner import SPEC, build
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
