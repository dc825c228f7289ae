"""Every backend of every op against the float64 reference, on realistic and hostile inputs, forward and backward.

Yardstick (FlashAttention's criterion): the error may be at most twice that of plain torch in the same dtype. Plain torch is the
reference itself run in float32 on the rounded inputs, and the torch backend where that is sound; the torch backend is held to
a few times the first, since it may order its sums differently.
"""

from __future__ import annotations

import importlib
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba import reference
from anymamba.backends import REGISTRY, dispatch, probes, selfcheck
from anymamba.backends.call import Call
from anymamba.language import say
from anymamba.numerics.cases import CASES, Case
from anymamba.numerics.document import finite

_ROUNDINGS = {torch.float32: 16, torch.bfloat16: 1, torch.float16: 1}
"""Roundings of the result, on the scale of the tensor, that are always allowed: one in 16 bits, and a few in float32, where the
float32 reference can be exact by chance."""


_NOTHING = 1e-6
"""A tensor below this everywhere, with inputs and cotangents around 1, is zero for every purpose: its own size is no scale."""


@dataclass(frozen=True)
class Row:
    """The worst tensor of one case. error, allowed, plain: relative to the tensor's largest magnitude; where: which tensor."""

    op: str
    case: str
    backend: str
    dtype: str
    error: float
    allowed: float
    plain: float
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
    """A row for each case, dtype and backend that is meant for this device and available. only: part of the op's name.
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
    probe = case.build(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64))
    call = Call(case.op, device, dtype, case.grad, frozenset(), (("d_state", 16), ("headdim", 16), ("width", 4)))
    given = {name: probes.as_given(name, value, probe, call) for name, value in probe.inputs.items()}
    exact_function = getattr(importlib.import_module(reference.OPS[case.op]), case.op)
    exact = probes.outcome(
        exact_function, {name: probes.as_exact(value) for name, value in given.items()}, probe, case.grad
    )
    single = {name: _single(value) for name, value in given.items()}
    plain = _errors(probes.outcome(exact_function, single, probe, case.grad), exact)
    torch_errors: dict[str, float] | None = None
    # torch first: it is part of the yardstick of the others
    for entry in sorted(REGISTRY.values(), key=lambda entry: entry.name != "torch"):
        if not entry.automatic or (entry.devices and device.type not in entry.devices):
            continue
        module, reason = _usable(entry.module, call)
        if module is None:
            continue
        try:
            errors = _errors(probes.outcome(getattr(module, case.op), given, probe, case.grad), exact)
        except Exception as error:  # noqa: BLE001 - a crash is a finding of this command
            yield Row(
                case.op,
                case.name,
                entry.name,
                _name(dtype),
                float("inf"),
                0.0,
                0.0,
                "",
                False,
                f"{type(error).__name__}: {error}",
            )
            continue
        row = _judge(case, entry.name, dtype, errors, plain, None if entry.name == "torch" else torch_errors)
        if entry.name == "torch" and row.ok:
            torch_errors = errors
        yield row


def _usable(package_name: str, call: Call) -> tuple[object | None, str]:
    """The op's module in a backend that is here; a package that cannot be imported is the doctor's business, not a drift."""
    try:
        package = importlib.import_module(package_name)
        ok, reason = package.available()
        if not ok or call.op not in package.OPS:
            return None, reason
        return importlib.import_module(package.OPS[call.op]), reason
    except ImportError as error:
        return None, str(error)


def _judge(
    case: Case,
    backend: str,
    dtype: torch.dtype,
    errors: dict[str, float],
    plain: dict[str, float],
    yardstick: dict[str, float] | None,
) -> Row:
    eps = torch.finfo(dtype).eps
    worst: tuple[float, str, float, float] = (-1.0, "", 0.0, 0.0)
    for name, error in errors.items():
        rounding = _ROUNDINGS[dtype] * eps
        if backend == "torch":
            allowed = 8 * plain[name] + rounding
        else:
            allowed = 2 * max(plain[name], (yardstick or {}).get(name, 0.0)) + rounding
        share = error / allowed if error == error else float("inf")
        if share > worst[0]:
            worst = share, name, error, allowed
    share, name, error, allowed = worst
    reason = (
        ""
        if share <= 1
        else say(f"{name} is off by {error:.2g}, allowed {allowed:.2g}", f"{name} 误差 {error:.2g}，允许 {allowed:.2g}")
    )
    return Row(case.op, case.name, backend, _name(dtype), error, allowed, plain[name], name, share <= 1, reason)


def reject(row: Row, device: torch.device) -> None:
    """Makes the dispatcher refuse the op of this backend on this device in that dtype until the self-checks are run again."""
    entry = REGISTRY[row.backend]
    package = importlib.import_module(entry.module)
    for grad in (False, True):
        call = Call(row.op, device, getattr(torch, row.dtype), grad)
        selfcheck.record(row.backend, package, call, False, f"anymamba verify, {row.case}: {row.reason}")
    dispatch.forget()


def _single(value: object) -> object:
    return value.detach().cpu().float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    result = {}
    for name, tensor in want.items():
        if got[name].shape != tensor.shape:
            result[name] = float("inf")
        elif tensor.numel():
            scale = max(tensor.abs().max().item(), _NOTHING)
            result[name] = ((probes.as_exact(got[name]) - tensor).abs().max() / scale).item()
    return result


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
