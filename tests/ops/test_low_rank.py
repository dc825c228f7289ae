"""Low-rank changes beside weights: values and every gradient are those of the dense weight W + s B A in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anymamba import ops
from anymamba.ops import low_rank
from anymamba.ops.low_rank import Change
from anymamba.ops.mamba_inner import build, mamba_inner
from anymamba.reference.mamba_inner import mamba_inner_fn as exact

ROOT = Path(__file__).parents[2]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().clone().to(dtype).requires_grad_()


def error(one: Tensor | None, other: Tensor | None) -> float:
    assert one is not None and other is not None
    return float((one.double() - other).norm() / other.norm())


@pytest.mark.parametrize(("dtype", "autocast", "most"), [
    (torch.float64, False, 1e-14), (torch.float32, False, 1e-6), (torch.float32, True, 0.01), (torch.bfloat16, False, 0.01),
])  # fmt: skip
@pytest.mark.parametrize("count", [1, 2])
def test_values_and_gradients(dtype: torch.dtype, autocast: bool, most: float, count: int) -> None:
    tensors = [random(3, 7, 20), random(11, 20), random(11), *(t for _ in range(count) for t in (random(4, 20), random(11, 4)))]
    ours, dense = [leaf(t, dtype) for t in tensors], [leaf(t, torch.float64) for t in tensors]
    x, weight, bias, *pairs = ours
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = low_rank.linear(x, weight, bias, [Change(A, B, 0.7) for A, B in zip(pairs[::2], pairs[1::2])])
    assert y.dtype == (torch.bfloat16 if autocast else dtype)
    x, weight, bias, *pairs = dense
    wanted = x @ (weight + 0.7 * sum(B @ A for A, B in zip(pairs[::2], pairs[1::2]))).t() + bias
    slope = random(3, 7, 11)
    y.backward(slope.to(y.dtype))
    wanted.backward(slope)
    assert error(y, wanted) < most
    for one, other in zip(ours, dense):
        assert error(one.grad, other.grad) < most
        assert one.grad is not None and one.grad.dtype == dtype


def test_a_second_derivative() -> None:
    x, W, A, B = (random(*shape).requires_grad_() for shape in ((5, 6), (4, 6), (2, 6), (4, 2)))
    assert torch.autograd.gradgradcheck(lambda x, W, A, B: low_rank.linear(x, W, None, [Change(A, B, 0.5)]), (x, W, A, B))


def test_inside_of_transforms_and_graphs() -> None:
    x, W, A, B = random(3, 5, 6), random(4, 6), random(2, 6), random(4, 2)
    wanted = x @ (W + 0.5 * B @ A).t()
    by_row = torch.vmap(lambda row: low_rank.linear(row, W, None, [Change(A, B, 0.5)]))(x)
    torch.testing.assert_close(by_row, wanted)
    compiled = torch.compile(lambda x: low_rank.linear(x, W, None, [Change(A, B, 0.5)]), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), wanted)


def test_row_norms_without_the_dense_weight() -> None:
    W, A, B, C, D = random(7, 9), random(2, 9), random(7, 2), random(3, 9), random(7, 3)
    norms = low_rank.row_norms(W, [Change(A, B, 0.5), Change(C, D, 2.0)])
    torch.testing.assert_close(norms, (W + 0.5 * B @ A + 2.0 * D @ C).norm(dim=1))


def inner_errors(function: Any) -> dict[str, float]:
    """Of mamba_inner with changes of x_proj, delta_proj and out_proj, against the dense weights in float64."""
    generator = torch.Generator().manual_seed(0)
    given: dict[str, Any] = build(length=19)(lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator))
    names = {"x_proj": "x_proj_weight", "delta_proj": "delta_proj_weight", "out_proj": "out_proj_weight"}
    pairs = {}
    for name, weight in names.items():
        out, size = given[weight].shape
        pairs[name] = random(2, size) / size**0.5, random(out, 2)
    sides = []
    for dtype, call in ((torch.float64, None), (torch.float32, function)):
        tensors = {n: t.to(dtype).detach().requires_grad_() if isinstance(t, Tensor) else t for n, t in given.items()}
        low = {name: (leaf(A, dtype), leaf(B, dtype)) for name, (A, B) in pairs.items()}
        for weight in names.values():
            tensors[weight].requires_grad_(False)  # frozen, as LoRA has them
        if call is None:
            dense = {weight: tensors[weight] + 0.7 * low[name][1] @ low[name][0] for name, weight in names.items()}
            y = exact(**{**tensors, **dense})
        else:
            y = call(**tensors, changes={name: [Change(A, B, 0.7)] for name, (A, B) in low.items()})
        y.backward(random(*y.shape).to(y.dtype))
        gradients = {f"{name} {part}": t.grad for name, pair in low.items() for part, t in zip("AB", pair)}
        gradients |= {name: t.grad for name, t in tensors.items() if isinstance(t, Tensor) and t.requires_grad}
        assert not any(tensors[weight].grad is not None for weight in names.values())
        sides.append({"y": y.detach(), **gradients})
    return {name: error(one, sides[0][name]) for name, one in sides[1].items()}


@pytest.mark.parametrize("backend", [None, "reference"])
def test_the_inside_of_a_mixer(backend: str | None) -> None:
    assert ops.mamba_inner_fn is not None
    errors = inner_errors(lambda **given: mamba_inner(**given, backend=backend))
    assert len(errors) > 12
    assert max(errors.values()) < 1e-5, errors


def test_the_inside_of_a_mixer_as_one_node() -> None:
    """Triton's, in its interpreter."""
    pytest.importorskip("triton")
    script = "import json; from anymamba.backends.triton.scan.mamba_inner import mamba_inner_fn as f\n"
    script += "from tests.ops.test_low_rank import inner_errors; print(json.dumps([inner_errors(f), inner_errors(lambda **g: f(**g, "
    script += "checkpoint_lvl=0))]))"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for errors in json.loads(done.stdout.splitlines()[-1]):
        assert max(errors.values()) < 1e-5, errors
