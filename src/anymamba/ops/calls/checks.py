"""Checks of the ops' arguments. Each error names the op, the argument, what it is and what was expected.

Shapes, dtypes and devices are checked always: they cost nothing next to a kernel. NaN and infinity are ordinary values, as in torch:
they go through the ops, and only ``debug_checks`` refuses them. Indices and borders that kernels follow into memory are checked where
reading them does not wait for an accelerator: on the CPU, and on every device under ``debug_checks``.
"""

from __future__ import annotations

import cmath
from collections.abc import Mapping

import torch
from torch import Tensor

from anymamba.backends.transforms import transformed
from anymamba.errors import AnymambaError, ArgumentError, ArgumentTypeError, UnsupportedError
from anymamba.language import _, ngettext
from anymamba.ops.calls.debug import values_checked

_BUFFERS = {"state", "conv_state", "final_states_out"}
"""Arguments that may hold memory nobody has written yet: rows of a cache that are not in use, an output to fill."""


def tensors(
    op: str,
    required: Mapping[str, Tensor],
    optional: Mapping[str, Tensor | None],
    integer: Mapping[str, Tensor | None] | None = None,
    complex_allowed: bool = False,
) -> bool:
    """All are tensors on the device of the first; those of ``integer`` hold integers, all others floating (or complex) numbers.

    Returns whether a gradient is needed. Raises ArgumentTypeError; under ``debug_checks`` ArgumentError for NaN and infinity.
    """
    device, grad = None, False
    for group in (required, optional):
        for name, tensor in group.items():
            if tensor is None and group is optional:
                continue
            if not isinstance(tensor, Tensor):
                raise _not_a_tensor(op, name, tensor)
            if not (tensor.is_floating_point() or (complex_allowed and tensor.is_complex())):
                raise _wrong_dtype(op, name, tensor, _("a floating dtype"))
            if device is None:
                device, first = tensor.device, name
            elif tensor.device != device:
                raise _other_device(op, name, tensor, first, device)
            grad = grad or tensor.requires_grad
    if integer:
        for name, tensor in integer.items():
            if tensor is None:
                continue
            if not isinstance(tensor, Tensor):
                raise _not_a_tensor(op, name, tensor)
            if tensor.dtype not in (torch.int32, torch.int64):
                raise _wrong_dtype(op, name, tensor, "torch.int32 / torch.int64")
            if tensor.device != device:
                raise _other_device(op, name, tensor, first, device)
    if values_checked():
        for name, tensor in (*required.items(), *optional.items()):
            if tensor is not None and name not in _BUFFERS:
                finite(op, name, tensor)
    return grad and torch.is_grad_enabled()


def on_device(op: str, name: str, tensor: Tensor, device: torch.device, first: str = "x") -> None:
    """It is a tensor on that device, of any dtype; first: the argument whose device it is. Raises ArgumentTypeError."""
    if not isinstance(tensor, Tensor):
        raise _not_a_tensor(op, name, tensor)
    if tensor.device != device:
        raise _other_device(op, name, tensor, first, device)


def shape(op: str, name: str, tensor: Tensor | None, axes: str, expected: tuple[int, ...]) -> None:
    """axes: the names of the axes, "(batch, dim, length)"; expected: their sizes, -1 for any. None passes. Raises ArgumentError."""
    if tensor is None or tensor.shape == expected:
        return
    actual_shape = tuple(tensor.shape)
    if len(actual_shape) == len(expected) and all(want in (-1, size) for size, want in zip(actual_shape, expected)):
        return
    raise wrong_shape(op, name, tensor, f"{axes} = ({', '.join('*' if size < 0 else str(size) for size in expected)})")


def wrong_shape(op: str, name: str, tensor: Tensor, expected: str) -> ArgumentError:
    actual_shape = tuple(tensor.shape)
    return ArgumentError(
        "shape",
        _("{op}: {name} has shape {value}, expected {expected}").format(
            op=op, name=name, value=actual_shape, expected=expected
        ),
    )


def divides(op: str, groups_name: str, groups: int, whole_name: str, whole: int) -> None:
    """groups are at least one and divide whole: "ngroups = 3 must divide nheads = 8". Raises ArgumentError."""
    if groups < 1 or whole % groups:
        raise ArgumentError(
            "shape",
            _("{op}: {groups_name} = {groups} must be at least 1 and divide {whole_name} = {whole}").format(
                op=op, groups_name=groups_name, groups=groups, whole_name=whole_name, whole=whole
            ),
        )


def skip(op: str, D: Tensor | None, nheads: int, headdim: int) -> None:
    """D of the Mamba-2 scan: (nheads,) or (nheads, headdim). Raises ArgumentError."""
    if D is not None and D.shape not in ((nheads,), (nheads, headdim)):
        raise wrong_shape(op, "D", D, f"(nheads,) = ({nheads},) / (nheads, headdim) = ({nheads}, {headdim})")


def value(op: str, name: str, found: object, ok: bool, expected: str) -> None:
    """Raises ArgumentError that names the value unless ok."""
    if not ok:
        raise ArgumentError(
            "value",
            _("{op}: {name} is {value!r}, expected {expected}").format(
                op=op, name=name, value=found, expected=expected
            ),
        )


def activation(op: str, found: str | None) -> None:
    """Raises UnsupportedError, a NotImplementedError as upstream's, unless it is None, "silu" or "swish"."""
    if found not in (None, "silu", "swish"):
        raise UnsupportedError(
            "value",
            _("{op}: activation is {value!r}, expected None, 'silu' or 'swish'").format(op=op, value=found),
        )


def dt_limit(op: str, limit: tuple[float, float]) -> None:
    """A pair of numbers in order. Raises ArgumentError."""
    try:
        low, high = limit
        ok = low <= high  # False for NaN
    except (TypeError, ValueError):
        ok = False
    value(op, "dt_limit", limit, ok, "(low, high), low <= high")


def finite(op: str, name: str, tensor: Tensor) -> None:
    """No NaN, no infinity. Raises ArgumentError that says how many there are and where the first is."""
    if not _values_readable(tensor) or not tensor.numel():
        return
    # one pass and no temporary; float16 sums overflow soon
    tensor = tensor.detach()
    total = tensor.sum(dtype=torch.float32) if tensor.dtype == torch.float16 else tensor.sum()
    if cmath.isfinite(total.item()):
        return
    bad = ~torch.isfinite(tensor)
    if bad.any():  # a sum of finite values can overflow too
        count, where = int(bad.sum()), tuple(bad.nonzero()[0].tolist())
        at, actual_shape = tensor[where].item(), tuple(tensor.shape)
        raise ArgumentError(
            "value",
            ngettext(
                "{op}: {name} of shape {value} holds {count} non-finite value, which is {at} at {where}; expected "
                "finite numbers",
                "{op}: {name} of shape {value} holds {count} non-finite values, the first is {at} at {where}; "
                "expected finite numbers",
                count,
            ).format(op=op, name=name, value=actual_shape, count=count, at=at, where=where),
            why=_("values upstream of this op overflowed: a diverging loss, or float16 out of range"),
        )


def indices_below(op: str, name: str, tensor: Tensor | None, rows: int, of: str, padding: bool = True) -> None:
    """No index is rows or more; negative ones are padding, or wrong as well. Raises ArgumentError."""
    if tensor is not None and tensor.numel() and _values_readable(tensor):
        largest = int(tensor.max())
        value(op, f"max({name})", largest, largest < rows, f"< {rows} ({of})")
        if not padding:
            smallest = int(tensor.min())
            value(op, f"min({name})", smallest, smallest >= 0, ">= 0")


def borders(op: str, name: str, tensor: Tensor, tokens: int, all_tokens: bool = False) -> None:
    """cu_seqlens: (sequences + 1,), never decreasing, from 0 on, at most tokens; all_tokens: from 0 to tokens. Raises ArgumentError."""
    if tensor.dim() != 1 or not tensor.numel():
        raise wrong_shape(op, name, tensor, "(sequences + 1,)")
    if _values_readable(tensor):
        offsets = tensor.tolist()
        ok = (offsets[0] == 0 and offsets[-1] == tokens) if all_tokens else (offsets[0] >= 0 and offsets[-1] <= tokens)
        ok = ok and all(a <= b for a, b in zip(offsets[:-1], offsets[1:]))
        value(op, name, offsets, ok, _("ascending, from 0 to {tokens}").format(tokens=tokens))


def real(op: str, name: str, tensor: Tensor | None) -> None:
    """Not complex, for the arguments of an op that also takes complex ones. Raises ArgumentTypeError."""
    if tensor is not None and tensor.is_complex():
        raise _wrong_dtype(op, name, tensor, _("a real floating dtype"))


def mixed(first: Tensor, *others: Tensor | None) -> bool:
    """Do the dtypes differ."""
    dtype = first.dtype
    for other in others:  # noqa: SIM110 - a generator costs more than the whole loop
        if other is not None and other.dtype != dtype:
            return True
    return False


def aligned(*tensors: Tensor | None) -> bool:
    """Do channels of all these (batch, dim, length) lie side by side in memory, every row of them at a border of 16 bytes."""
    if torch.compiler.is_compiling() or transformed():
        return False  # there is no address, and no kernel that would ask
    for x in tensors:
        if x is not None:
            size = x.element_size()
            if x.stride(1) != 1 or (x.data_ptr() | x.stride(0) * size | x.stride(2) * size) & 15:
                return False
    return True


def other_dtypes(dtype: torch.dtype, alike: Mapping[str, Tensor | None], wide: Mapping[str, Tensor | None]) -> frozenset[str]:
    """Features such as "float32_B" of tensors whose dtype is another than usual. alike: usually as the activations, of that dtype;
    wide: usually in float32 beside activations of 16 bits."""
    usual = torch.promote_types(dtype, torch.float32)
    pairs = [(name, x, dtype) for name, x in alike.items()] + [(name, x, usual) for name, x in wide.items()]
    names = [f"{str(x.dtype).removeprefix('torch.')}_{name}" for name, x, expected in pairs if x is not None and x.dtype != expected]
    return frozenset(names)


def features(**given: object) -> frozenset[str]:
    """Names of the options in use: those that are neither None nor False."""
    return frozenset([name for name, option in given.items() if option is not None and option is not False])


def has_values(tensor: Tensor) -> bool:
    """Can the tensor's numbers be asked for: not in a captured graph or inside of torch.func, and not of tensors that are shapes alone."""
    if torch.compiler.is_compiling() or tensor.is_meta or torch.jit.is_tracing() or transformed():
        return False
    return type(tensor).__name__ != "FakeTensor"


def _values_readable(tensor: Tensor) -> bool:
    return has_values(tensor) and (tensor.is_cpu or values_checked())


def _not_a_tensor(op: str, name: str, found: object) -> AnymambaError:
    kind = type(found).__name__
    return ArgumentTypeError(
        "dtype", _("{op}: {name} is {kind}, expected a tensor").format(op=op, name=name, kind=kind)
    )


def _wrong_dtype(op: str, name: str, tensor: Tensor, expected: str) -> AnymambaError:
    description = f"{tuple(tensor.shape)}, {tensor.dtype}"
    return ArgumentTypeError(
        "dtype",
        _("{op}: {name} is {value}; expected {expected}").format(op=op, name=name, value=description, expected=expected),
    )


def _other_device(op: str, name: str, tensor: Tensor, first: str, device: torch.device | None) -> AnymambaError:
    actual_shape = tuple(tensor.shape)
    return ArgumentTypeError(
        "device",
        _("{op}: {name} {value} is on {device}, {first} on {first_device}; expected all on one device").format(
            op=op, name=name, value=actual_shape, device=tensor.device, first=first, first_device=device
        ),
    )
