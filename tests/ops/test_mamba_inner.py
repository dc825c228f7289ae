"""mamba_inner_fn: fused where a backend has it, composed of the other ops elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.ops import layouts
from tests.ops.harness import Case, check, parametrize

from anymamba import ops
from anymamba.backends.probes import Probe, Random
from anymamba.reference import mamba_inner as exact

RMS = ("b_rms_weight", "c_rms_weight", "dt_rms_weight")


def inner(
    given: tuple[str, ...] = ("D", "delta_bias"), constant: str = "", complex_A: bool = False, length: int = 21, bias: bool = True,
    batch: int = 2, dim: int = 10, **options: Any,
) -> Callable[[Random], Probe]:  # fmt: skip
    def build(random: Random) -> Probe:
        rank, d_state, d_model, width = 3, 6, 5, 4
        row = 2 * d_state if complex_A else d_state
        A = -random(dim, d_state).exp()
        inputs: dict[str, Any] = {
            "xz": random(batch, length, 2 * dim),
            "conv1d_weight": random(dim, 1, width),
            "conv1d_bias": random(dim) if bias else None,
            "x_proj_weight": random(rank + (2 - len(constant)) * row, dim) / dim**0.5,
            "delta_proj_weight": random(dim, rank) / rank**0.5,
            "out_proj_weight": random(d_model, dim) / dim**0.5,
            "out_proj_bias": random(d_model) if bias else None,
            "A": torch.complex(A, random(dim, d_state)) if complex_A else A,
        }
        for name in constant:
            inputs[name] = torch.complex(random(dim, d_state), random(dim, d_state)) if complex_A else random(dim, d_state)
        sizes = {"D": dim, "delta_bias": dim, "B_proj_bias": row, "C_proj_bias": row, "b_rms_weight": d_state, "c_rms_weight": d_state,
                 "dt_rms_weight": dim}  # fmt: skip
        inputs.update({name: random(sizes[name]) for name in given})
        names = tuple(name for name, value in inputs.items() if value is not None)
        return Probe(inputs, differentiable=names, float32=("A", "D", "delta_bias"), options=options)

    return build


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
    probe = inner(**options)(lambda *shape: torch.randn(*shape))
    probe.inputs["xz"] = probe.inputs["xz"].mT
    return {**probe.inputs, **probe.options}


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
    probe = inner(given=("D", "delta_bias", "C_proj_bias", *RMS), length=4, batch=1, dim=4)(
        lambda *s: torch.randn(*s).double()
    )
    names = list(probe.differentiable)
    leaves = [probe.inputs[name].requires_grad_() for name in names]

    def function(*given: torch.Tensor) -> torch.Tensor:
        arguments = dict(zip(names, given))
        return exact.mamba_inner_fn(**{**arguments, "xz": arguments["xz"].mT})

    assert torch.autograd.gradcheck(function, leaves)


def test_nothing_to_do() -> None:
    assert ops.mamba_inner_fn(**built(length=0)).shape == (2, 0, 5)
