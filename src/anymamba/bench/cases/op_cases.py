"""Cases of single ops: CPU-sized against transformers and mambapy, CUDA-sized against mamba-ssm."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba import ops
from anymamba.backends.call import Call
from anymamba.backends.opspec import SPECS, Arguments, Bench, OpSpec
from anymamba.backends.probes import as_given
from anymamba.bench import peers
from anymamba.bench.cases.case import Case, Contender, Contest, Setting, Target
from anymamba.bench.gate import Gate, compare, outcome

_PIECE = {"batch": 2, "length": 130, "dim": 96, "nheads": 4, "shape": (2, 130, 96)}
"""The reference is slow: it gets a case of at most these sizes. The whole of it is compared with plain PyTorch in float64."""


def tensors_of(spec: OpSpec, sizes: Mapping[str, Any], device: torch.device, dtype: torch.dtype, seed: int) -> Arguments:
    generator = torch.Generator().manual_seed(seed)
    arguments = spec.build(**sizes)(lambda *shape: torch.randn(shape, generator=generator))
    return {name: as_given(name, value, spec, Call(spec.name, device, dtype)) for name, value in arguments.items()}


def contest(spec: OpSpec, sizes: Mapping[str, Any], dtype: torch.dtype, mode: str, setting: Setting) -> Contest:
    """mode: "forward", "forward+backward" or "backward"."""
    ours = functools.partial(spec.function, backend=setting.backend)
    arguments = tensors_of(spec, sizes, setting.device, dtype, 0)
    contenders: dict[str, Callable[[], Contender] | str] = {}
    for name, peer in peers.of_op(spec.name, setting.device).items():
        argument_list: Any = peer if isinstance(peer, str) else functools.partial(contender, peer, arguments, spec, mode)
        contenders[name] = argument_list
    gate = functools.partial(_gate, spec, setting, sizes, dtype, mode)
    slow = peers.slow(setting.device, spec.name == "selective_scan_fn", backward=mode != "forward")
    return Contest(contender(ours, arguments, spec, mode), gate, contenders, slow=slow)


def contender(function: Callable[..., Any], given: Arguments, spec: OpSpec, mode: str) -> Contender:
    if mode == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return function(**given)

        return Contender(forward)
    leaves = {name: given[name].detach().requires_grad_() for name in spec.gradients(given)}

    def run_forward() -> list[Tensor]:
        out = function(**{**given, **leaves})
        return [part for part in (out if isinstance(out, tuple) else (out,)) if part.requires_grad]

    outputs = run_forward()
    cotangents = [torch.randn_like(part) for part in outputs]
    if mode == "backward":
        return Contender(lambda: torch.autograd.grad(outputs, list(leaves.values()), cotangents, retain_graph=True))
    outputs = []
    return Contender(lambda: torch.autograd.grad(run_forward(), list(leaves.values()), cotangents))


def _gate(spec: OpSpec, setting: Setting, sizes: Mapping[str, Any], dtype: torch.dtype, mode: str) -> Gate:
    """A piece against the reference, then the whole case against plain PyTorch in float64."""
    verdict = Gate(False, "")
    piece = {name: min(size, _PIECE[name]) if name in _PIECE else size for name, size in sizes.items()}
    for case_sizes, exact_backend in ((piece, "reference"), (sizes, "torch")):
        arguments = tensors_of(spec, case_sizes, setting.device, dtype, int(case_sizes is piece))
        names = () if mode == "forward" else spec.gradients(arguments)
        has_float64 = setting.device.type != "mps" and case_sizes is not piece
        device = setting.device if has_float64 else torch.device("cpu")
        exact_inputs = {n: v.to(device, torch.float64) if isinstance(v, Tensor) else v for n, v in arguments.items()}

        def run(backend: str | None, values: Any, op: Any, exact: Any, names: Any = names) -> Any:
            with torch.set_grad_enabled(bool(names)):
                return outcome(functools.partial(op, backend=backend), values, names, exact)

        exact = run(exact_backend, exact_inputs, spec.function, None)
        narrow = _multiplied_in_half(spec.function, dtype)
        plain = run("torch", arguments, _gated_apart(spec.function) if narrow else spec.function, exact)
        verdict = compare(run(setting.backend, arguments, spec.function, exact), plain, exact, dtype if narrow else None)
        if not verdict.ok:
            return verdict
    return verdict


def _multiplied_in_half(function: Callable[..., Any], dtype: torch.dtype) -> bool:
    """Do the op's products take operands of 16 bits, as a matrix unit wants them. Then plain PyTorch in the same dtype is not the torch
    backend, which computes in float32 throughout: it is what a user writes, ``scan(x) * silu(z)``, where the gradient of the scan's
    output is rounded to 16 bits; and gradients in float32 are results of 16-bit products."""
    return function is ops.mamba_chunk_scan_combined and dtype in (torch.bfloat16, torch.float16)


def _gated_apart(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*, z: Tensor, **given: Any) -> Tensor:
        return function(**given) * F.silu(z)

    return call


_SHORT = {"float32": "fp32", "bfloat16": "bf16"}
_TARGETS = {
    "selective_scan_fn/B1-L2048-D1536-N16-fp32/forward": (Target(peers.TRANSFORMERS, 1 / 60), Target(peers.MAMBAPY, 1 / 90)),
    "selective_scan_fn/B1-L2048-D1536-N16-fp32/forward+backward": (Target(peers.MAMBAPY, 1 / 100),),
}
"""On a processor. On a GPU they are the gains that a spec asks for over the official kernels."""


def cases() -> Iterator[Case]:
    for spec in SPECS.values():
        for bench in spec.bench:
            for dtype, mode in itertools.product(bench.dtypes, _modes(spec, bench)):
                yield _case(spec, bench, dtype, mode)


def _modes(spec: OpSpec, bench: Bench) -> tuple[str, ...]:
    """A GPU's queue hides the cost of a call, so that a backward pass can be timed alone there."""
    both = "backward" if bench.device_type == "cuda" else "forward+backward"
    return ("forward", both) if spec.differentiable else ("forward",)


def _case(spec: OpSpec, bench: Bench, dtype: str, mode: str) -> Case:
    name = f"{spec.name}/{bench.name}-{_SHORT[dtype]}/{mode}"
    index = int(mode != "forward")
    targets = _TARGETS.get(name, ()) if bench.device_type == "cpu" else ()
    if bench.gains:
        targets = (Target(peers.OFFICIAL_H100, 1 / bench.gains[index]),)
    official = bench.official and bench.official[index]
    build = functools.partial(contest, spec, bench.sizes, getattr(torch, dtype), mode)
    quick = bench.quick and dtype == bench.dtypes[0]
    scans = spec.name in ("selective_scan_fn", "mamba_chunk_scan_combined")
    seconds = (6.0 if scans else 2.0) * (2.0 if mode != "forward" else 1.0)
    return Case(name, bench.device_type, build, quick=quick, targets=targets, official_ms=official, seconds=seconds)
