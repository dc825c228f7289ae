"""Compiled kernels on every input of `anymamba verify`: against the float64 reference, for the interpreter cannot show what a compiler
does, and against themselves."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("triton")

from tests.ops import harness

from anymamba import ops
from anymamba.backends import probes
from anymamba.backends.call import Call
from anymamba.backends.cuda import OPS as CUDA_OPS
from anymamba.backends.triton import OPS
from anymamba.errors import BackendError
from anymamba.numerics import op_errors
from anymamba.numerics.cases import CASES, Case

DEVICE = torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("op", ["mamba_chunk_scan_combined", "selective_scan_fn", "causal_conv1d_fn", "selective_state_update"])
def test_every_case(op: str, dtype: torch.dtype) -> None:
    rows = [row for row in op_errors.measure(DEVICE, (dtype,), op) if row.backend in ("cuda", "triton")]
    assert "triton" in {row.backend for row in rows} and (op != "selective_scan_fn" or "cuda" in {row.backend for row in rows})
    assert not [f"{row.backend}, {row.case}: {row.reason}" for row in rows if not row.ok]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "backend,op",
    [("triton", op) for op in sorted({case.op for case in CASES if case.op in OPS or case.spec.composed_of})]
    + [("cuda", op) for op in sorted(CUDA_OPS)],
)
def test_ten_runs_give_the_same_bits(backend: str, op: str, dtype: torch.dtype) -> None:
    compared = 0
    for case in CASES:
        if case.op != op:
            continue
        try:
            first = _outcome(case, dtype, backend)
        except BackendError as error:  # what supports() turns away
            if harness._crashed(error):
                raise
            continue
        for _ in range(9):
            other = _outcome(case, dtype, backend)
            different = [name for name, value in first.items() if not _same_bits(value, other[name])]
            assert not different, f"{case.name}: {different}"
        compared += 1
    assert compared


@pytest.mark.gpu
@pytest.mark.parametrize("extra", ["", "z", "documents", "z and documents"])
@pytest.mark.parametrize("headdim,d_state", [(64, 128), (40, 80), (128, 256), (32, 64)])
def test_large_heads(headdim: int, d_state: int, extra: str) -> None:
    """Plans that the small sizes of the other cases do not lead to, against plain PyTorch in float64."""
    torch.manual_seed(0)
    batch, length, heads = 2, 333, 4
    given = {
        "x": torch.randn(batch, length, heads, headdim, device=DEVICE),
        "dt": torch.randn(batch, length, heads, device=DEVICE),
        "A": -torch.rand(heads, device=DEVICE) - 0.1,
        **{name: torch.randn(batch, length, 2, d_state, device=DEVICE) for name in "BC"},
        **({"z": torch.randn(batch, length, heads, headdim, device=DEVICE)} if "z" in extra else {}),
    }
    given = {name: tensor if name == "A" else tensor.bfloat16() for name, tensor in given.items()}
    documents = (torch.arange(length, device=DEVICE) // 100 - 1).expand(batch, -1) if "documents" in extra else None
    results = []
    for backend, dtype in (("triton", None), ("torch", torch.float64)):
        inputs = {name: tensor.to(dtype or tensor.dtype).requires_grad_() for name, tensor in given.items()}
        out = ops.mamba_chunk_scan_combined(**inputs, chunk_size=64, seq_idx=documents, dt_softplus=True, backend=backend)
        assert isinstance(out, torch.Tensor)
        torch.manual_seed(1)
        cotangent = torch.randn(out.shape, device=DEVICE, dtype=torch.float64).to(out.dtype)
        results.append([out.detach(), *torch.autograd.grad(out, list(inputs.values()), cotangent)])
    for name, got, want in zip(["out", *given], *results):
        assert (got.double() - want).norm() < 2e-2 * want.norm(), name


def _outcome(case: Case, dtype: torch.dtype, backend: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    arguments = case.build(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64))
    asked = Call(case.op, DEVICE, dtype, case.grad)
    given = {name: probes.as_given(name, value, case.spec, asked) for name, value in arguments.items()}
    return probes.outcome(functools.partial(case.spec.function, backend=backend), given, case.spec, case.grad)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(*(value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)))
