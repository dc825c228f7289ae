"""A small embedded language for explicit-SIMD kernels, over ``llvmlite.ir``: a kernel is a Python function that emits its loops.

Everything is computed in float32 vectors of ``k.width`` lanes (16, 8 or 4 by host). Memory may hold float32, bfloat16 or
float16; loads and stores convert. A kernel is one *task* of many that ``Program.run`` spreads over the cores:

    from anymamba.backends.cpu.jit.compile import Program
    from anymamba.backends.cpu.jit.emit import Kernel
    from anymamba.backends.cpu.jit.vecmath import silu

    def gate(k: Kernel, dtype: str) -> None:                    # out = x * silu(z); task = row
        x, z, out = k.pointer("x", dtype), k.pointer("z", dtype), k.pointer("out", dtype)
        channels, x_row, z_row = k.size("channels"), k.size("x_row"), k.size("z_row")
        x, z, out = x.at(k.task * x_row), z.at(k.task * z_row), out.at(k.task * channels)
        with k.loop(0, channels, k.width) as c:
            left = channels - c                                 # lanes past `left` are neither read nor written
            out.store(c, x.load(c, left) * silu(z.load(c, left)), left)

    @functools.cache
    def program(dtype: str) -> Program:
        return Program("gate", gate, dtype)                     # compiled at the first run, then cached on disk

    program(dtype_name(x.dtype)).run(rows, x=x, z=z, out=out, channels=d, x_row=x.stride(0), z_row=z.stride(0))

Arguments are matched by name: tensors (their ``data_ptr()``; None becomes 0), integers for ``size``, floats for ``number``.
Values support + - * / and comparisons with each other and with Python numbers; a scalar meets a vector by broadcasting, and
a*b + c is fused where the host can. ``k.loop`` and ``k.if_`` are ``with`` blocks; a value that changes over a loop lives in a
``k.variable``. Offsets and strides count elements; integers are 64 bits wide. ``k.scratch(n)`` is n float32 of memory, aligned to a
vector, private to the worker that runs the task and not cleared between tasks. Two tasks may run at the same time: they must not
write the same memory. Options of a program (``dtype`` above; any values with a stable repr) are compile-time constants.
"""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import ir

from anymamba.backends.cpu.jit.memory import Pointer as Pointer
from anymamba.backends.cpu.jit.target import Target
from anymamba.backends.cpu.jit.values import F32, I8, I64, PTR, Emitter
from anymamba.backends.cpu.jit.values import Value as Value
from anymamba.backends.cpu.jit.values import Variable as Variable


def dtype_name(dtype: torch.dtype) -> str:
    """The name that ``Kernel.pointer`` takes: "float32", "bfloat16", "float16", "int32" or "int64"."""
    return str(dtype).removeprefix("torch.")


class Kernel(Emitter):
    """What a kernel function is given: the statements of the language (Emitter), its task number and its arguments."""

    HEADER = 5
    """Slots of the argument array that ``Program.run`` and the task loop share, before the kernel's own (see compile.py)."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.task = Value(self, self.function.args[0])
        self.names: list[str] = []
        self.scratch_bytes = 0

    def _slot(self, name: str, type: ir.Type) -> Any:
        index = self.HEADER + len(self.names)
        self.names.append(name)
        address = self.builder.gep(self.function.args[1], [I64(index)], source_etype=I64)
        return self.builder.load(address, typ=type)

    def pointer(self, name: str, dtype: str) -> Pointer:
        """A tensor argument; None arrives as a null pointer: whether it is used is an option of the program."""
        return Pointer(self, dtype, self._slot(name, PTR))

    def size(self, name: str) -> Value:
        """An integer argument: a size or a stride in elements."""
        return Value(self, self._slot(name, I64))

    def number(self, name: str) -> Value:
        """A float argument, as a float32 scalar."""
        return Value(self, self.builder.fptrunc(self._slot(name, ir.DoubleType()), F32))

    def scratch(self, count: int) -> Pointer:
        """``count`` float32 private to the worker, aligned to 64 bytes, uninitialised."""
        address = self.builder.gep(self.function.args[2], [I64(self.scratch_bytes)], source_etype=I8)
        self.scratch_bytes += -(-4 * count // 64) * 64
        return Pointer(self, "float32", address)

    def finish(self) -> ir.Module:
        """Closes the kernel and adds ``run``, which takes tasks from a shared counter until none is left (see compile.py)."""
        self.builder.ret_void()
        with self.builder.goto_block(self.entry):
            self.builder.branch(self.function.blocks[1])
        run = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR]), "run")
        builder = ir.IRBuilder(run.append_basic_block("entry"))
        data = run.args[0]

        def slot(index: int) -> Any:
            return builder.gep(data, [I64(index)], source_etype=I64)

        worker = builder.atomic_rmw("add", slot(1), I64(1), "monotonic")
        tasks, scratch, scratch_bytes = (builder.load(slot(index), typ=I64) for index in (2, 3, 4))
        private = builder.inttoptr(builder.add(scratch, builder.mul(worker, scratch_bytes)), PTR)
        take, work, done = (run.append_basic_block(name) for name in ("take", "work", "done"))
        builder.branch(take)
        builder.position_at_end(take)
        task = builder.atomic_rmw("add", slot(0), I64(1), "monotonic")
        builder.cbranch(builder.icmp_signed("<", task, tasks), work, done)
        builder.position_at_end(work)
        builder.call(self.function, [task, data, private])
        builder.branch(take)
        builder.position_at_end(done)
        builder.ret_void()
        return self.module
