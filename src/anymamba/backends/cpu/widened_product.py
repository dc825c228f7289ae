"""Products of many rows with 16-bit, int8 or float32 weights on this processor: see widened_product_kernels.py."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cpu import widened_product_kernels as kernels
from anymamba.backends.cpu.jit import target as targets
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import dtype_name
from anymamba.language import _
from anymamba.reference import blocks

ROOM = 2**16
"""float32 of widened weights in a task, 256 KiB: they stay in the second cache beside the rows that pass by."""

FEWEST_ROWS = 96
"""Of a task, where rows are divided too: widening the weights then costs a tenth of multiplying with them."""

_WEIGHTS = {"float32", "bfloat16", "float16", "int8"}


def supports(call: Call) -> tuple[bool, str]:
    weight_features = _WEIGHTS | blocks.BYTES.keys()
    weights = next(name.removeprefix("weight_") for name in call.features if name.removeprefix("weight_") in weight_features | {"float64"})
    if weights in blocks.BYTES and not targets.host().f16:
        return False, _("the processor does not convert float16")
    for dtype in (dtype_name(call.dtype), "int8" if weights in blocks.BYTES else weights):
        if dtype not in _WEIGHTS:
            return False, _("no kernels for {dtype}").format(dtype=dtype)
        if dtype == "float16" and not targets.host().f16:
            return False, _("the processor does not convert float16")
    return True, _("compiled kernels")


def widened_product(
    a: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """See anymamba.ops.widened_product. weight (columns, depth). Sums go along the depth one after the
    other, the same for every row, however many there are; but of up to four rows with four-bit blocks, see blocks.py."""
    (rows, depth), columns = a.shape, weight.shape[0]
    out = torch.empty(rows, columns, dtype=dtype or a.dtype)
    if not rows or not columns:
        return out
    if 1 not in weight.stride():
        weight = weight.contiguous()
    in_rows = weight.stride(1) == 1
    a = a.float()
    if a.stride(1) != 1:
        a = a.contiguous()
    workers = torch.get_num_threads()
    kind = blocks.name_of(weight, depth)
    if kind in blocks.BYTES and rows <= kernels.TEXTS:
        return _few_rows(a, weight, kind, bias, scale, out, workers)
    task_columns, column_tasks, task_rows, row_tasks = _blocks(rows, columns, depth, workers)
    room = max(ROOM, 1 << (max(1, task_columns * depth) - 1).bit_length())
    wide = [None if vector is None else vector.float().contiguous() for vector in (scale, bias)]
    program = _program(kind, in_rows, dtype_name(out.dtype), scale is not None, bias is not None, room)
    program.run(
        column_tasks * row_tasks, workers=workers, a=a, weight=weight, out=out, scale=wide[0], bias=wide[1],
        rows=rows, columns=columns, depth=depth, a_row=a.stride(0), weight_row=weight.stride(0 if in_rows else 1), out_row=columns,
        task_columns=task_columns, column_tasks=column_tasks, task_rows=task_rows,
    )  # fmt: skip
    return out


def _few_rows(
    a: Tensor, weight: Tensor, kind: str, bias: Tensor | None, scale: Tensor | None, out: Tensor, workers: int
) -> Tensor:
    rows, depth = a.shape
    tasks = 2 * workers
    program = _few_rows_program(kind, dtype_name(out.dtype), scale is not None, bias is not None, rows, depth, tasks)
    wide = [None if vector is None else vector.float().contiguous() for vector in (scale, bias)]
    program.run(
        tasks, workers=workers, a=a.contiguous(), weight=weight.contiguous(), out=out, scale=wide[0], bias=wide[1], columns=weight.shape[0]
    )
    return out


@functools.cache
def _few_rows_program(kind: str, out: str, has_scale: bool, has_bias: bool, rows: int, depth: int, tasks: int) -> Program:
    return Program("few_rows", kernels.few_rows, kind, out, has_scale, has_bias, rows, depth, tasks)


def _blocks(rows: int, columns: int, depth: int, workers: int) -> tuple[int, int, int, int]:
    """Columns of a task, tasks side by side, rows of a task, tasks one above the other: large blocks, and four tasks for every worker so
    that none waits long for the last."""
    wide, tall = kernels.panel_columns(targets.host()), kernels.tile_rows(targets.host())
    panels = -(-columns // wide)
    most = max(1, ROOM // (max(1, depth) * wide))
    per_task = max(1, min(most, -(-panels // (4 * workers)))) if workers > 1 else min(most, panels)
    column_tasks = -(-panels // per_task)
    row_tasks = 1
    if workers > 1 and column_tasks < 4 * workers:
        row_tasks = max(1, min(-(-4 * workers // column_tasks), rows // FEWEST_ROWS))
    task_rows = -(-rows // (row_tasks * tall)) * tall
    return per_task * wide, column_tasks, task_rows, -(-rows // task_rows)


@functools.cache
def _program(weight: str, in_rows: bool, out: str, has_scale: bool, has_bias: bool, room: int) -> Program:
    return Program("product", kernels.product, weight, in_rows, out, has_scale, has_bias, room)
