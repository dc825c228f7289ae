"""Every backend of every op against the float64 reference, on realistic and hostile inputs, forward and backward.

Yardstick (FlashAttention's criterion): the error may be at most twice that of plain torch in the same dtype. Plain torch is the
reference itself run in float32 on the rounded inputs, and the torch backend where that is sound; the torch backend is held to
a few times the first, since it may order its sums differently.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba import ops
from anymamba.backends import REGISTRY, Entry, dispatch, probes, selfcheck
from anymamba.backends.call import Call
from anymamba.backends.observers import call_of
from anymamba.backends.opspec import spec_of
from anymamba.language import _
from anymamba.numerics import interpreted_bfloat16
from anymamba.numerics.cases import CASES, Case
from anymamba.numerics.document import finite

_ROUNDINGS = {torch.float32: 16, torch.bfloat16: 1, torch.float16: 1}
"""Roundings of the result, on the scale of the tensor, that are always allowed: one in 16 bits, and a few in float32, where the
float32 reference can be exact by chance."""


_NOTHING = 1e-6
"""A tensor below this everywhere, with inputs and cotangents around 1, is zero for every purpose: its own size is no scale."""


_SCALE_ROUNDINGS = {torch.float32: 4, torch.bfloat16: 1 / 64, torch.float16: 1 / 64}
"""The same for a factor that a whole tensor is off by, where roundings cancel."""

_ALONG = 1.5
"""Roundings, on the scale of their chance sum, that such a factor may have: six times the standard deviation of rounding once."""

_MANY = 64
"""Elements over which roundings cancel."""

_PARTS = 4
"""An op that is made of others rounds in between as well."""


_ON_MATRIX_UNITS = ("mamba_chunk_scan_combined", "mamba3_siso", "mamba3_mimo")
_OPERANDS = 2
"""A GPU's matrix unit takes operands of 16 bits: states are rounded on their way into a product. That shows in the gradient of A, a sum
over all tokens that nearly cancels."""


@dataclass(frozen=True)
class Error:
    """largest: of an element, relative to the tensor's largest magnitude. scale: the factor by which all of it is off, less one.
    chance: what independent relative errors of 1 in the elements would come to in scale, by chance."""

    largest: float
    scale: float
    chance: float = 0.0


@dataclass(frozen=True)
class Row:
    """The worst tensor of one case. error, allowed: relative to the tensor's largest magnitude, or of its scale; where: which tensor."""

    op: str
    case: str
    backend: str
    dtype: str
    error: float
    allowed: float
    where: str
    ok: bool
    reason: str = ""

    @property
    def share(self) -> float:
        """Of what is allowed."""
        return self.error / max(self.allowed, 1e-30)

    @property
    def refusable(self) -> bool:
        """Does the dispatcher pass this backend over once it has failed: the plain PyTorch one has nobody behind it."""
        return REGISTRY[self.backend].checked

    def as_dict(self) -> dict[str, Any]:
        return finite(vars(self))


def measure(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16),
    only: str = "",
    seconds: float = 0.0,
) -> Iterator[Row]:
    """A row for each case, dtype and backend that is meant for this device and available, but for cases whose output is beyond what
    the dtype can hold: float16 ends at 65,504, and has no right result there. only: part of the op's name.
    seconds: stop after so long (0: never)."""
    started = time.perf_counter()
    for case in CASES:
        if only not in case.op:
            continue
        for dtype in dtypes:
            if seconds and time.perf_counter() - started > seconds:
                return
            yield from _measure_case(case, device, dtype)


def _measure_case(case: Case, device: torch.device, dtype: torch.dtype) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case.op} {case.name}".encode()))
    arguments = case.build(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64))
    small_call = Call(case.op, device, dtype, case.grad)
    inputs = {name: probes.as_given(name, value, case.spec, small_call) for name, value in arguments.items()}
    exact = probes.outcome(case.spec.reference, {name: probes.as_exact(value) for name, value in inputs.items()}, case.spec, case.grad)
    call = dataclasses.replace(call_of(case.spec.function, inputs), grad=case.grad)
    output = exact.get("output 0")
    if output is not None and output.numel() and output.abs().max() > torch.finfo(dtype).max:
        return
    if dtype == torch.float32:
        single = {name: _single(value) for name, value in inputs.items()}
        plain = _errors(probes.outcome(case.spec.reference, single, case.spec, case.grad), exact)
    else:  # what float32 loses is nothing beside one rounding to 16 bits
        plain = {name: Error(0.0, 0.0) for name in exact}
    torch_errors: dict[str, Error] | None = None
    # torch first: it is part of the yardstick of the others
    for entry in sorted(REGISTRY.values(), key=lambda entry: entry.name != "torch"):
        if not _meant_for(entry, device, dtype):
            continue
        function = _function(entry, call)
        if function is None:
            continue
        try:
            errors = _errors(probes.outcome(function, inputs, case.spec, case.grad), exact)
        except Exception as error:  # noqa: BLE001 - a crash is a finding of this command
            reason = f"{type(error).__name__}: {error}"
            yield Row(case.op, case.name, entry.name, _name(dtype), math.inf, 0.0, "", False, reason)
            continue
        row = _judge(case, entry.name, dtype, errors, plain, None if entry.name == "torch" else torch_errors)
        if entry.name == "torch" and row.ok:
            torch_errors = errors
        yield row


def _meant_for(entry: Entry, device: torch.device, dtype: torch.dtype) -> bool:
    if entry.name == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        interpreted_bfloat16.mend()
        return True
    return entry.automatic and (not entry.devices or device.type in entry.devices)


def _function(entry: Entry, call: Call) -> Callable[..., Any] | None:
    """What this backend runs for the call; None where it is not here, or says that it cannot. A package that cannot be imported is
    the doctor's business, not a drift. An op that is made of others where it is not fused is run with the parts of this backend."""
    try:
        package = importlib.import_module(entry.module)
        if not package.available()[0]:
            return None
        if call.op not in package.OPS:
            parts = spec_of(call.op).composed_of
            composed = parts and all(part in package.OPS for part in parts)
            return functools.partial(getattr(ops, call.op), backend=entry.name) if composed else None
        module = importlib.import_module(package.OPS[call.op])
    except ImportError:
        return None
    return getattr(module, call.op) if module.supports(call)[0] else None


def _judge(
    case: Case,
    backend: str,
    dtype: torch.dtype,
    errors: dict[str, Error],
    plain: dict[str, Error],
    yardstick: dict[str, Error] | None,
) -> Row:
    eps = torch.finfo(dtype).eps
    worst: tuple[float, str, float, float] = (-1.0, "", 0.0, 0.0)
    composed = bool(case.spec.composed_of)
    half = dtype != torch.float32 and backend in ("cuda", "triton", "official") and case.op in _ON_MATRIX_UNITS
    for name, error in errors.items():
        once = _ROUNDINGS[dtype] * eps * (_PARTS if composed else _OPERANDS if half else 1)
        over_all = (_SCALE_ROUNDINGS[dtype] + _ALONG * error.chance) * eps
        for kind, rounding in (("largest", once),) if composed else (("largest", once), ("scale", over_all)):
            mine, base = getattr(error, kind), getattr(plain[name], kind)
            if backend == "torch":
                allowed = 8 * base + rounding
            else:
                allowed = 2 * max(base, getattr((yardstick or {}).get(name, plain[name]), kind)) + rounding
            share = mine / allowed if mine == mine else math.inf
            if share > worst[0]:
                worst = share, name if kind == "largest" else _("scale of {name}").format(name=name), mine, allowed
    share, name, found, allowed = worst
    reason = (
        ""
        if share <= 1
        else _("{name} is off by {value:.2g}, allowed {allowed:.2g}").format(name=name, value=found, allowed=allowed)
    )
    return Row(case.op, case.name, backend, _name(dtype), found, allowed, name, share <= 1, reason)


def reject(row: Row, device: torch.device) -> None:
    """Makes the dispatcher refuse the op of this backend on this device in that dtype until the self-checks are run again."""
    entry = REGISTRY[row.backend]
    package = importlib.import_module(entry.module)
    for grad in (False, True):
        call = Call(row.op, device, getattr(torch, row.dtype), grad)
        selfcheck.record(row.backend, package, call, False, f"anymamba verify, {row.case}: {row.reason}")
    dispatch.forget()


def _single(value: Any) -> Any:
    """On the CPU, floating ones in float32."""
    if isinstance(value, dict):
        return {key: _single(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_single(part) for part in value]
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, Error]:
    result = {}
    for name, tensor in want.items():
        if got[name].shape != tensor.shape:
            result[name] = Error(math.inf, math.inf)
        elif tensor.numel():
            scale = max(tensor.abs().max().item(), _NOTHING)
            difference = probes.as_exact(got[name]) - tensor
            squares = tensor.abs().square()
            total, along, chance = squares.sum().item(), 0.0, 0.0
            # over many elements roundings cancel, and a wrong factor does not
            if tensor.numel() >= _MANY and total > _NOTHING:
                along = abs((difference * tensor.conj()).sum().item()) / total
                chance = squares.square().sum().sqrt().item() / total
            result[name] = Error(difference.abs().max().item() / scale, along, chance)
    return result


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
