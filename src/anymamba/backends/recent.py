"""The last few signatures of an op, compared by torch's own code: a tenth of the time that building the key of a signature takes.

The comparison is that of torch.compile's guards: class, dtype, device, shape, strides and whether a gradient is wanted. A torch that has
none of it gets by with the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    from torch._C._dynamo import guards as _torch_guards
except ImportError:
    _torch_guards = None  # type: ignore[assignment]

_Guards: Any = getattr(_torch_guards, "TensorGuards", None)

MOST = 8
"""Signatures of an op; a call compares its tensors with each."""

_MISSING = tuple(torch.empty((0, 3, 0, 7), dtype=torch.uint8) for _ in range(16))
"""In place of arguments that are None: no op takes a tensor like these. One for each place, for the comparison refuses a tensor that is
there twice; such calls go by their keys."""


class Signature(NamedTuple):
    """check: of tensors. rest: all else that the answer depends on. any_address: where in 16 bytes tensors begin does not matter. known:
    what serves calls of it."""

    check: Callable[..., bool]
    rest: Any
    any_address: bool
    known: Any


class Recent:
    """Of one op, the last that was called first."""

    def __init__(self) -> None:
        self.signatures: list[Signature] = []

    def find(self, tensors: Iterable[Tensor | None], rest: Any) -> Any:
        """What was kept for tensors like these, or None. Not to be asked inside of torch.func's transformations."""
        given = [missing if x is None else x for x, missing in zip(tensors, _MISSING)]
        for place, signature in enumerate(self.signatures):
            if signature.rest == rest and signature.check(*given) and (signature.any_address or _at_borders(given)):
                if place:
                    self.signatures = [signature, *(other for other in self.signatures if other is not signature)]
                return signature.known
        return None

    def keep(self, tensors: Iterable[Tensor | None], rest: Any, any_address: bool, known: Any) -> None:
        """tensors: those of a call for which signature.of has a key."""
        given = [missing if x is None else x for x, missing in zip(tensors, _MISSING)]
        if _Guards is None or not (any_address or _at_borders(given)):
            return
        check = _Guards(*given, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
        self.signatures = [Signature(check, rest, any_address, known), *self.signatures[: MOST - 1]]


def _at_borders(tensors: list[Tensor]) -> bool:
    """Do all begin at a multiple of 16 bytes."""
    bits = 0
    for x in tensors:
        bits |= x.data_ptr()
    return not bits & 15
