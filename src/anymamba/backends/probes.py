"""A backend on the inputs of an op's spec beside the float64 reference: outputs, changed states and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.layout import like
from anymamba.backends.opspec import Arguments, Build, OpSpec, spec_of


def largest_error(function: Callable[..., Any], call: Call, build: Build | None = None) -> tuple[float, str]:
    """Runs inputs of the op (None: its typical ones) through ``function`` and the reference. Returns the largest error, relative to the
    largest magnitude of the tensor it is in, and the name of that tensor ("output 0", "gradient of u", ...)."""
    spec = spec_of(call.op)
    generator = torch.Generator().manual_seed(0)
    arguments = (build or spec.build())(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64))
    inputs = {name: as_given(name, value, spec, call) for name, value in arguments.items()}
    exact = {name: as_exact(value) for name, value in inputs.items()}
    got = outcome(function, inputs, spec, call.grad)
    want = outcome(spec.reference, exact, spec, call.grad)
    worst, where = 0.0, "output 0"
    for name, tensor in want.items():
        error = _relative_error(got[name], tensor)
        if math.isnan(error):  # worse than any number, and no later one may hide it
            return error, name
        if error > worst:
            worst, where = error, name
    return worst, where


def outcome(function: Callable[..., Any], arguments: Arguments, spec: OpSpec, grad: bool) -> dict[str, Tensor]:
    """What the function does to them: its outputs, the states that it changed, and with grad its gradients for a fixed cotangent."""
    arguments = {name: _copy(value) if name in spec.inplace else value for name, value in arguments.items()}
    needs = spec.gradients(arguments) if grad else ()
    for name in needs:
        arguments[name] = arguments[name].detach().requires_grad_()
    with torch.set_grad_enabled(bool(needs)):
        outputs = list(_tensors(function(**arguments)))
    result = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
    for name in spec.inplace:
        updates = [tensor.detach() for tensor in _tensors(arguments[name])]
        result.update({f"changed {name}" + (f" {index}" if index else ""): tensor for index, tensor in enumerate(updates)})
    if needs:
        outputs = [output for output in outputs if output.requires_grad]
        cotangents = [_cotangent(output) for output in outputs]
        gradients = torch.autograd.grad(outputs, [arguments[name] for name in needs], cotangents)
        result.update({f"gradient of {name}": gradient for name, gradient in zip(needs, gradients)})
    return result


def _cotangent(output: Tensor) -> Tensor:
    """Fixed, and different from element to element, so that a permuted gradient does not pass for a right one; multiples of 1/16,
    which every dtype holds exactly."""
    waves = torch.arange(output.numel(), dtype=torch.float64).mul(0.7).cos().mul(16).round().div(16)
    return waves.view(output.shape).to(output)


def _relative_error(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape:
        return float("inf")
    scale = max(want.abs().max().item(), 1e-30)
    return ((as_exact(got) - as_exact(want)).abs().max() / scale).item()


def as_given(name: str, value: Any, spec: OpSpec, call: Call) -> Any:
    """An argument of the op on the device and in the dtype of the call, laid out in memory as it was built. Of lists and dictionaries
    every tensor, by its own name."""
    if isinstance(value, dict):
        return {key: as_given(key, part, spec, call) for key, part in value.items()}
    if isinstance(value, list):
        return [as_given(name, part, spec, call) for part in value]
    if not isinstance(value, Tensor):
        return value
    dtype = value.dtype
    if value.is_complex():
        dtype = torch.promote_types(call.dtype, torch.float32).to_complex()
    elif value.is_floating_point():
        keep = name in spec.float32 and call.dtype in (torch.bfloat16, torch.float16)
        other = next((dtype for word, dtype in _OTHER.items() if f"{word}_{name}" in call.features), None)
        dtype = other or (torch.float32 if keep else call.dtype)
    return like(value.to(call.device, dtype), value)


_OTHER = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Features of a call such as "float32_B" name the dtype of an argument that has another than usual."""


def as_exact(value: Any) -> Any:
    """The same numbers on the CPU, floating ones in float64, complex ones in complex128."""
    if isinstance(value, dict):
        return {key: as_exact(part) for key, part in value.items()}
    if isinstance(value, list):
        return [as_exact(part) for part in value]
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list, dict)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_copy(part) for part in value]
    return value.clone() if isinstance(value, Tensor) else value
