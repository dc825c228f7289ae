"""Holds every backend against the float64 reference: outputs, changed states and gradients.

Criterion (FlashAttention's): the error is at most twice that of the plain torch backend on the same inputs in the same dtype, plus
one rounding of the result in 16 bits, sixteen in float32. The torch backend itself, being the yardstick, is held to a tolerance
that is absolute.

A GPU's matrix unit takes operands of 16 bits, so on a GPU every result of Mamba-2's scan in 16 bits is one of 16 bits, in whatever dtype
it is handed out: gradients of A, D, dt_bias and states in float32 may be off by one rounding in 16 bits. Plain torch in that dtype is then
`scan(x) * silu(z)`, where the gradient of the scan's output is rounded too; the torch backend computes in float32 throughout.

A test file lists its Cases; ``parametrize`` crosses them with every backend of the registry. A new backend needs no test code.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends import REGISTRY, dispatch, selfcheck
from anymamba.backends.call import Call
from anymamba.backends.opspec import SPECS, Arguments, Build, OpSpec
from anymamba.backends.probes import as_exact, as_given, outcome
from anymamba.errors import BackendError

MATRIX_UNIT = ("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 5e-3}
"""Largest error of the torch backend, relative to the largest magnitude of the tensor."""


@dataclass(frozen=True, eq=False)
class Case:
    """build makes the op's inputs; views[name] is applied to that input on its way into the op (a transpose, a slice, an expand),
    and gradients are compared behind it. forward_only: ops that pass no gradient. slack: factor on TOLERANCE where the views sum
    gradients in 16 bits, as that of an expand does. float32: another choice of the arguments that stay float32 than the spec's."""

    op: str
    name: str
    build: Build
    views: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    forward_only: bool = False
    slow: bool = False
    slack: float = 1.0
    float32: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def spec(self) -> OpSpec:
        spec = SPECS[self.op]
        return spec if self.float32 is None else dataclasses.replace(spec, float32=self.float32)


def backends() -> list[str]:
    """Those that the tests run on this machine. Triton's interpreter is slow: only when TRITON_INTERPRET=1 asks for it."""
    accelerator = torch.cuda.is_available()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return [
        name
        for name, entry in REGISTRY.items()
        if entry.automatic
        and (not entry.devices or "cpu" in entry.devices or accelerator or (name == "triton" and interpreted))
    ]


def device_of(backend: str) -> torch.device:
    devices = REGISTRY[backend].devices
    return torch.device("cuda" if torch.cuda.is_available() and (not devices or "cuda" in devices) else "cpu")


def skip_unless_here(backend: str) -> None:
    """A backend that has not been written yet or cannot run on this machine is skipped with its reason; a broken one fails."""
    module = REGISTRY[backend].module
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            pytest.skip(f"backend {backend!r} is not part of this checkout")
        raise
    if not hasattr(package, "available"):
        pytest.skip(f"backend {backend!r} is not part of this checkout")
    ok, reason = package.available()
    if not ok:
        pytest.skip(f"{backend}: {reason}")


def parametrize(cases: list[Case]) -> Callable[[Any], Any]:
    """Crosses the cases with every backend and dtype. What is not slow: all in float32, every third in bfloat16, every sixth in
    float16, so that each dtype meets options of every kind in a quick run."""
    every = {torch.float32: 1, torch.bfloat16: 3, torch.float16: 6}
    crossed = []
    for dtype, step in every.items():
        for index, case in enumerate(cases):
            slow = case.slow or index % step != 0
            name = f"{case.name}-{str(dtype).removeprefix('torch.')}"
            crossed.append(pytest.param(case, dtype, id=name, marks=[pytest.mark.slow] if slow else []))

    def decorate(function: Any) -> Any:
        function = pytest.mark.parametrize("case,dtype", crossed)(function)
        return pytest.mark.parametrize("backend", backends())(function)

    return decorate


def check(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the case through the public op on this backend; skips what the backend may turn away."""
    skip_unless_here(backend)
    # the harness is the stricter check, and what fails it must be seen as a failure and not as a rejected backend
    monkeypatch.setattr(selfcheck, "passed", lambda *_: (True, "checked by this test"))
    dispatch.forget()
    try:
        got = _run(case, functools.partial(case.spec.function, backend=backend), dtype, device_of(backend))
    except BackendError as error:
        if _crashed(error):
            raise
        if not _may_refuse(case, backend):
            pytest.fail(f"{backend} refuses {case.op}, {case.name}, which it has to support: {error.why}")
        pytest.skip(f"{backend}: {error.why}")
    finally:
        dispatch.forget()
    exact = _exact(case, dtype)
    narrow = backend in ("cuda", "triton", "official") and case.op in MATRIX_UNIT and dtype != torch.float32
    plain = got if backend == "torch" else _plain(case, dtype, narrow)
    assert got.keys() == exact.keys()
    wrong = []
    for name, want in exact.items():
        assert got[name].shape == want.shape, f"{name}: {tuple(got[name].shape)} instead of {tuple(want.shape)}"
        if not want.numel():
            continue
        scale = max(want.abs().max().item(), 1e-20)
        error, plain_error = (((as_exact(result[name]) - want).abs().max() / scale).item() for result in (got, plain))
        ulp = torch.finfo(dtype if narrow else got[name].dtype).eps
        # on few numbers the plain error is sometimes next to nothing by luck
        floor = ulp if ulp > 1e-4 else 16 * ulp
        allowed = case.slack * TOLERANCE[dtype] if backend == "torch" else 2 * plain_error + floor
        if not error <= allowed:  # written so that NaN is wrong
            wrong.append(f"{name}: error {error:.3g}, allowed {allowed:.3g} (plain torch {plain_error:.3g})")
    assert not wrong, "\n".join(wrong)


_NORMS = {"second-branch", "second-norm", "second-norm-alone", "rowscale", "everything"}
_SCANS = {
    "constant-B", "constant-C", "constant-BC", "complex", "complex-groups", "complex-rms", "complex-constant-B", "complex-constant-C",
    "complex-constant-BC", "complex-from-a-state", "complex-documents",
}  # fmt: skip
REFUSED: dict[str, dict[str, set[str]]] = {
    "cpu": {"layer_norm_fn": _NORMS, "rms_norm_fn": _NORMS, "selective_scan_fn": _SCANS, "mamba_inner_fn": _SCANS},
    "cuda": {"selective_scan_fn": _SCANS - {"constant-B", "constant-C", "constant-BC"}, "mamba_inner_fn": _SCANS},
    "triton": {
        "layer_norm_fn": _NORMS, "rms_norm_fn": _NORMS, "selective_scan_fn": _SCANS, "mamba_inner_fn": _SCANS,
        "causal_conv1d_fn": {"length5-dim3-width9"},
    },
    "torch": {},
}  # fmt: skip
"""backend -> op -> the cases that it may turn away. Every other one it has to support: a new refusal is a failure, not a skip. What a
backend leaves to another one is that one's to refuse."""


def _may_refuse(case: Case, backend: str) -> bool:
    if backend not in REFUSED:
        return True
    implemented = case.op in importlib.import_module(REGISTRY[backend].module).OPS or bool(case.spec.composed_of)
    return not implemented or case.name in REFUSED[backend].get(case.op, ())


def _crashed(error: BackendError) -> bool:
    """A reason that is an exception's text, not an answer of supports()."""
    return "Error: " in (error.why or "")


def _arguments(case: Case, dtype: torch.dtype, device: torch.device) -> Arguments:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case.op} {case.name}".encode()))
    made = case.build(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64))
    call = Call(case.op, device, dtype)
    return {name: as_given(name, value, case.spec, call) for name, value in made.items()}


def _run(case: Case, function: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    return outcome(_viewing(case, function), _arguments(case, dtype, device), case.spec, not case.forward_only)


def _viewing(case: Case, function: Callable[..., Any]) -> Callable[..., Any]:
    def viewed(**arguments: Any) -> Any:
        for name, view in case.views.items():
            arguments[name] = view(arguments[name])
        return function(**arguments)

    return viewed


@functools.cache
def _exact(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """The reference on the very numbers that the backend gets: those of the case, rounded to dtype."""
    arguments = {name: as_exact(value) for name, value in _arguments(case, dtype, torch.device("cpu")).items()}
    return outcome(_viewing(case, case.spec.reference), arguments, case.spec, not case.forward_only)


@functools.cache
def _plain(case: Case, dtype: torch.dtype, gate_apart: bool = False) -> dict[str, Tensor]:
    function = functools.partial(case.spec.function, backend="torch")
    return _run(case, _gated_apart(function) if gate_apart else function, dtype, torch.device("cpu"))


def _gated_apart(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*, z: Tensor | None = None, **arguments: Any) -> Any:
        out = function(**arguments)
        if z is None:
            return out
        y, *states = out if isinstance(out, tuple) else (out,)
        y = y * F.silu(z)
        return (y, *states) if states else y

    return call
