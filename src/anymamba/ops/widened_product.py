"""The matrix product of a linear layer in float32 from weights of fewer bits, for processors that multiply only float32 fast."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Build, OpSpec, Random, register
from anymamba.language import _
from anymamba.ops.calls import checks, compiled
from anymamba.ops.calls.remembered import keep, remembered
from anymamba.reference import blocks

_stopwatch: contextvars.ContextVar[list[float] | None] = contextvars.ContextVar("stopwatch", default=None)


def _shapes(a: Tensor, weight: Tensor, dtype: torch.dtype | None = None, **__: Any) -> list[Tensor]:
    return [a.new_empty((a.shape[0], weight.shape[0]), dtype=dtype or a.dtype)]


@compiled.as_node(_shapes)
def widened_product(
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """(a @ weight.T) * scale + bias: operands are widened to float32, sums are float32, and the result is rounded once.

    a: (rows, depth), floating. weight: (columns, depth), floating or int8, of any strides; or uint8, weights in
    blocks (``anymamba.reference.blocks``), (columns, bytes of a row). bias, scale: (columns,), floating, or None.
    dtype: of the result, (rows, columns); None: that of a. No gradient passes: ``anymamba.ops.projection`` has the linear layer.
    Raises ArgumentError (shapes), ArgumentTypeError (dtypes, devices), BackendError. Upstream has no such op.
    """
    if torch.compiler.is_compiling():
        node: Tensor = compiled.run("widened_product", (a, weight, bias, scale, dtype), backend)
        return node
    if _stopwatch.get() is None:
        return _product(a, weight, bias, scale, dtype, backend)
    started = time.perf_counter()
    with _disable_current_modes():  # whoever counts torch's own products must not count those inside a second time
        y = _product(a, weight, bias, scale, dtype, backend)
    if (seconds := _stopwatch.get()) is not None:
        seconds.append(time.perf_counter() - started)
    return y


@contextlib.contextmanager
def product_times() -> Iterator[list[float]]:
    """Seconds of every product that this thread asks for while the block runs."""
    seconds: list[float] = []
    token = _stopwatch.set(seconds)
    try:
        yield seconds
    finally:
        _stopwatch.reset(token)


def _product(
    a: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, dtype: torch.dtype | None, backend: str | None
) -> Tensor:
    op = "widened_product"
    arguments = (a, weight, bias, scale, dtype)
    key, function = remembered(op, (a, weight, bias, scale), dtype, backend)
    if function is None:
        checks.tensors(op, {"a": a}, {"bias": bias, "scale": scale})
        if weight.dtype not in (torch.int8, torch.uint8) or weight.device != a.device:  # neither a floating dtype nor an index
            checks.tensors(op, {"a": a, "weight": weight}, {})
        checks.shape(op, "a", a, "(rows, depth)", (-1, -1))
        if weight.dtype == torch.uint8:
            checks.shape(op, "weight", weight, "(columns, bytes of a row)", (-1, -1))
            known = {blocks.row_bytes(name, a.shape[1]): name for name in blocks.BYTES if a.shape[1] % blocks.SIZE == 0}
            expected = ", ".join(map(str, known)) or _("none: the depth is no multiple of 32")
            checks.value(op, "weight.shape[1]", weight.shape[1], weight.shape[1] in known, expected)
        else:
            checks.shape(op, "weight", weight, "(columns, depth)", (-1, a.shape[1]))
        checks.shape(op, "bias", bias, "(columns,)", (weight.shape[0],))
        checks.shape(op, "scale", scale, "(columns,)", (weight.shape[0],))
        layout = "rows" if weight.stride(1) == 1 else "columns" if weight.stride(0) == 1 else "scattered"
        features = {f"weight_{layout}": True, f"weight_{blocks.name_of(weight, a.shape[1])}": True}
        call = Call(op, a.device, a.dtype, False, checks.features(bias=bias, scale=scale, **features))
        choice = choose(call, backend)
        keep(key, call, choice, arguments)
        function = choice.function
    with torch.no_grad():
        y: Tensor = function(*arguments)
    return y


def build(
    rows: int = 13, columns: int = 37, depth: int = 45, int8: bool = False, transposed: bool = False, packed: str = ""
) -> Build:
    """int8: the weights. packed: their format in blocks, of the next depth that is whole blocks. transposed: their columns lie side by
    side, as in a layer's backward pass. Sizes are odd unless said otherwise."""
    depth = -(-depth // blocks.SIZE) * blocks.SIZE if packed else depth

    def inputs(random: Random) -> Arguments:
        weight = random(depth, columns).t() if transposed else random(columns, depth)
        if int8:
            weight = (weight * 40).clamp(-127, 127).to(torch.int8)
        if packed:
            weight = blocks.packed(weight, packed)
        return {"a": random(rows, depth), "weight": weight, "bias": random(columns), "scale": random(columns)}

    return inputs


def probe(call: Call) -> Build:
    packed = next((name for name in blocks.BYTES if f"weight_{name}" in call.features), "")
    return build(int8="weight_int8" in call.features, transposed="weight_columns" in call.features, packed=packed)


SPEC = register(
    OpSpec(
        widened_product,
        build,
        float32=("bias", "scale"),
        probe=probe,
        forward_cases={
            "int8 weights": build(int8=True),
            **{f"{name} weights": build(packed=name) for name in blocks.BYTES},
            "columns side by side": build(70, 33, 50, transposed=True),
            "one row": build(1, 20, 64),
            "one column": build(5, 1, 3),
            "many rows": build(300, 96, 40),
        },
    )
)
