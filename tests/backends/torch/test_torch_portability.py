"""The operators in use exist on every accelerator, and none needs float64 where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends import REGISTRY, probes
from anymamba.backends.call import Call
from anymamba.backends.dispatch import verdict
from anymamba.backends.opspec import SPECS
from anymamba.backends.torch import OPS, mamba3_rotation, selective_scan, ssd, widened_product

# each has an MPS kernel, or is composed of operators that do, in the native_functions.yaml that PyTorch ships (torchgen/packaged):
# look a new operator up there before it is added here
ON_MPS = frozenset(
    """
    arange eq index split clamp
    _unsafe_view add add_ addcmul addcmul_ bmm cat clone copy_ cumsum detach div empty_like exp exp_ expand flip masked_fill mean mul
    mul_ native_layer_norm native_layer_norm_backward neg new_empty new_empty_strided new_ones new_zeros ones ones_like permute pow
    rsqrt select select_backward silu silu_backward slice slice_backward softplus softplus_backward split_with_sizes squeeze stack sub
    sum transpose triu unbind unsqueeze view zeros zeros_like _fused_rms_norm _fused_rms_norm_backward _to_copy t mm alias
    constant_pad_nd cos remainder rsub sigmoid sigmoid_backward sin tanh tanh_backward
    _log_softmax gather scatter_add_ new_full
    """.split()  # noqa: SIM905 - a hundred quotes would hide the names
)


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.float64: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        self.names.add(name)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
                self.float64.add(name)
        return out


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The paths that are taken off the CPU, on the CPU."""
    for module in (ssd, mamba3_rotation):
        monkeypatch.setattr(module, "has_float64", lambda device: False)
    monkeypatch.setattr(widened_product, "_in_tiles", lambda a, weight: False)
    monkeypatch.setattr(selective_scan, "_segment_length", lambda device: 4)
    yield


def run(op: str) -> Operators:
    generator = torch.Generator().manual_seed(0)
    spec = SPECS[op]
    inputs = spec.build()(lambda *shape: torch.randn(*shape, generator=generator))
    function = getattr(__import__(OPS[op], fromlist=["x"]), op)
    for name in spec.gradients(inputs):
        inputs[name] = inputs[name].detach().requires_grad_()
    with Operators() as operators:
        out = function(**inputs)
        if spec.differentiable:
            outputs = [part for part in (out if isinstance(out, tuple) else (out,)) if part.requires_grad]
            torch.autograd.backward(outputs, [torch.ones_like(part) for part in outputs])
    return operators


@pytest.mark.parametrize("op", OPS)
def test_operators_exist_everywhere(op: str, accelerator: None) -> None:
    operators = run(op)
    assert operators.names, "the mode saw nothing"
    assert not operators.names - ON_MPS
    assert not operators.float64


@pytest.mark.parametrize("op", OPS)
def test_accelerator_path_is_exact(op: str, accelerator: None) -> None:
    call = Call(op, torch.device("cpu"), torch.float32, grad="update" not in op)
    function = getattr(__import__(OPS[op], fromlist=["x"]), op)
    worst, where = probes.largest_error(function, call)
    assert worst < 2e-5, where


@pytest.mark.parametrize("op", OPS)
def test_serves_every_device(op: str) -> None:
    for device in ("cpu", "cuda", "mps", "xpu"):
        call = Call(op, torch.device(device), torch.float32, features=frozenset({"complex_A", "seq_idx"}))
        assert verdict(REGISTRY["torch"], call)[0]
