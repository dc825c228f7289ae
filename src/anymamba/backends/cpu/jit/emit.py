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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from llvmlite import ir

from anymamba.backends.cpu.jit.memory import F32, I8, I32, I64, PTR, Pointer
from anymamba.backends.cpu.jit.target import Target

_FAST = ("contract", "nsz")
"""Only what keeps NaN, infinity and the order of sums: a*b + c may be fused, nothing may be reassociated."""


def dtype_name(dtype: torch.dtype) -> str:
    """The name that ``Kernel.pointer`` takes: "float32", "bfloat16", "float16", "int32" or "int64"."""
    return str(dtype).removeprefix("torch.")


class Value:
    """An emitted value: a float32 vector or scalar, a 64-bit integer, or a truth value (also a vector of them)."""

    __slots__ = ("k", "ir")

    def __init__(self, k: Kernel, value: Any) -> None:
        self.k, self.ir = k, value

    @property
    def is_vector(self) -> bool:
        return isinstance(self.ir.type, ir.VectorType)

    @property
    def is_integer(self) -> bool:
        return isinstance(self.ir.type, ir.IntType)

    def _with(self, other: Any, integer: str, floating: str, swap: bool = False) -> Value:
        a, b = self.k.match(self, other)
        a, b = (b, a) if swap else (a, b)
        builder = self.k.builder
        if a.is_integer:
            return Value(self.k, getattr(builder, integer)(a.ir, b.ir))
        return Value(self.k, getattr(builder, floating)(a.ir, b.ir, flags=_FAST))

    def __add__(self, other: Any) -> Value:
        return self._with(other, "add", "fadd")

    def __sub__(self, other: Any) -> Value:
        return self._with(other, "sub", "fsub")

    def __rsub__(self, other: Any) -> Value:
        return self._with(other, "sub", "fsub", swap=True)

    def __mul__(self, other: Any) -> Value:
        return self._with(other, "mul", "fmul")

    def __truediv__(self, other: Any) -> Value:
        return self._with(other, "sdiv", "fdiv")

    def __rtruediv__(self, other: Any) -> Value:
        return self._with(other, "sdiv", "fdiv", swap=True)

    __radd__, __rmul__, __floordiv__ = __add__, __mul__, __truediv__

    def __mod__(self, other: Any) -> Value:
        return self._with(other, "srem", "frem")

    def __neg__(self) -> Value:
        return 0 - self if self.is_integer else Value(self.k, self.k.builder.fneg(self.ir, flags=_FAST))

    def _compare(self, sign: str, other: Any) -> Value:
        a, b = self.k.match(self, other)
        if a.is_integer:
            return Value(self.k, self.k.builder.icmp_signed(sign, a.ir, b.ir))
        return Value(self.k, self.k.builder.fcmp_ordered(sign, a.ir, b.ir))

    def __lt__(self, other: Any) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Any) -> Value:
        return self._compare("==", other)

    def both(self, other: Value) -> Value:
        """Logical and of two truth values."""
        return Value(self.k, self.k.builder.and_(self.ir, other.ir))


class Variable:
    """A value that changes: ``total = k.variable(0.0 or a Value)``, ``total.value``, ``total.set(x)``, ``total.add(x)``."""

    def __init__(self, k: Kernel, initial: Value) -> None:
        self.k, self.type = k, initial.ir.type
        self.slot = k.stack(self.type)
        self.set(initial)

    @property
    def value(self) -> Value:
        return Value(self.k, self.k.builder.load(self.slot, typ=self.type))

    def set(self, value: Any) -> None:
        self.k.builder.store(self.k.match(value, self.value)[0].ir, self.slot)

    def add(self, value: Any) -> None:
        self.set(self.value + value)


class Kernel:
    """What a kernel function is given: its target, its task number, and the statements of the language."""

    HEADER = 5
    """Slots of the argument array that ``Program.run`` and the task loop share, before the kernel's own (see compile.py)."""

    def __init__(self, target: Target) -> None:
        self.target, self.width = target, target.width
        self.module = ir.Module("anymamba")
        self.module.triple = target.triple
        body_type = ir.FunctionType(ir.VoidType(), [I64, PTR, PTR])
        self.function = ir.Function(self.module, body_type, "task")
        self.function.linkage = "internal"
        for argument in self.function.args[1:]:
            argument.add_attribute("noalias")
        self.entry = self.function.append_basic_block("entry")
        self.builder = ir.IRBuilder(self.function.append_basic_block("body"))
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

    def stack(self, type: ir.Type) -> Any:
        """Memory for one ``type`` that LLVM will keep in a register where it can."""
        with self.builder.goto_block(self.entry):
            slot = self.builder.alloca(type)
        slot.type = PTR  # llvmlite still gives it a typed pointer, which newer LLVM no longer reads
        return slot

    def wrap(self, value: Any) -> Value:
        """An IR value as a Value."""
        return Value(self, value)

    def integer(self, value: Any) -> Value:
        return value if isinstance(value, Value) else Value(self, I64(value))

    def scalar(self, number: float) -> Value:
        return Value(self, F32(number))

    def vector(self, value: Any) -> Value:
        """The same float in every lane."""
        if isinstance(value, Value):
            return value if value.is_vector else Value(self, self.broadcast_ir(value.ir))
        return Value(self, ir.Constant(ir.VectorType(F32, self.width), [float(value)] * self.width))

    def broadcast_ir(self, scalar: Any) -> Any:
        kind = ir.VectorType(scalar.type, self.width)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)

    def match(self, a: Any, b: Any) -> tuple[Value, Value]:
        """Both as values of one type."""
        if not isinstance(a, Value):
            b, a = self.match(b, a)
            return a, b
        if not isinstance(b, Value):
            if a.is_integer:
                return a, Value(self, a.ir.type(b))
            return a, self.vector(b) if a.is_vector else self.scalar(b)
        if a.is_vector or b.is_vector:
            return self.vector(a), self.vector(b)
        return a, b

    def select(self, condition: Value, yes: Any, no: Any) -> Value:
        if not isinstance(yes, Value) and not isinstance(no, Value):
            yes = self.vector(yes)
        yes, no = self.match(yes, no)
        return Value(self, self.builder.select(condition.ir, yes.ir, no.ir))

    def minimum(self, a: Any, b: Any) -> Value:
        """The smaller; for floats, b where a is NaN."""
        a, b = self.match(a, b)
        return self.select(a < b, a, b)

    def maximum(self, a: Any, b: Any) -> Value:
        """The larger; for floats, b where a is NaN."""
        a, b = self.match(a, b)
        return self.select(a > b, a, b)

    def fma(self, a: Any, b: Any, c: Any) -> Value:
        """a*b + c rounded once, where the host can: for exact remainders. Plain a*b + c is fused too where that is faster."""
        if not self.target.fma:
            return a * b + c
        a, b = self.match(a, b)
        a, c = self.match(a, c)
        b, c = self.match(b, c)
        suffix = f"v{self.width}f32" if a.is_vector else "f32"
        return self.intrinsic(f"llvm.fma.{suffix}", a.ir.type, a, b, c)

    def intrinsic(self, name: str, result: ir.Type, *arguments: Any) -> Value:
        """Calls an LLVM intrinsic on Values or raw IR values."""
        values = [argument.ir if isinstance(argument, Value) else argument for argument in arguments]
        kind = ir.FunctionType(result, [value.type for value in values])
        function = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        return Value(self, self.builder.call(function, values))

    def sum_lanes(self, vector: Value) -> Value:
        """The sum of the lanes as a scalar, pairwise (in the same order on every run)."""
        value, lanes = vector.ir, self.width
        while lanes > 1:
            lanes //= 2
            low = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
            high = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes, 2 * lanes)))
            halves = [self.builder.shuffle_vector(value, value, half) for half in (low, high)]
            value = self.builder.fadd(*halves, flags=_FAST)
        return Value(self, self.builder.extract_element(value, I32(0)))

    def sums(self, vectors: list[Value]) -> Value:
        """Lane i of the result is the sum of the lanes of ``vectors[i]``, for ``width`` vectors: a transposing reduction, which
        takes a third of the instructions of as many ``sum_lanes``."""
        values, group = [vector.ir for vector in vectors], 1
        while len(values) > 1:
            # groups of `group` lanes from either vector alternately: first halves in one, second halves in the other
            starts = range(0, self.width, 2 * group)
            picks = [
                [base + start + i for start in starts for base in (0, self.width) for i in range(half, half + group)]
                for half in (0, group)
            ]
            masks = [ir.Constant(ir.VectorType(I32, self.width), pick) for pick in picks]
            values = [
                self.builder.fadd(*(self.builder.shuffle_vector(a, b, mask) for mask in masks), flags=_FAST)
                for a, b in zip(values[::2], values[1::2])
            ]
            group *= 2
        return self.wrap(values[0])

    def variable(self, initial: Any) -> Variable:
        """Starts as a Value, or as a Python float in every lane of a vector, or as a Python int."""
        if not isinstance(initial, Value):
            initial = self.integer(initial) if isinstance(initial, int) else self.vector(initial)
        return Variable(self, initial)

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int = 1, reverse: bool = False) -> Iterator[Value]:
        """i = start, start + step, ... below stop; reverse: the same values from the last to the first (step 1 only)."""
        start, stop = self.integer(start), self.integer(stop)
        first, past = (stop - 1, start - 1) if reverse else (start, stop)
        before = self.builder.block
        head, body, after = (self.builder.append_basic_block(name) for name in ("head", "body", "after"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        i = self.builder.phi(I64)
        i.add_incoming(first.ir, before)
        index = Value(self, i)
        self.builder.cbranch((index > past if reverse else index < past).ir, body, after)
        self.builder.position_at_end(body)
        yield index
        following = index - 1 if reverse else index + step
        i.add_incoming(following.ir, self.builder.block)
        self.builder.branch(head)
        self.builder.position_at_end(after)

    @contextmanager
    def if_(self, condition: Value) -> Iterator[None]:
        with self.builder.if_then(condition.ir):
            yield

    @contextmanager
    def if_else(self, condition: Value) -> Iterator[tuple[Any, Any]]:
        """``with k.if_else(c) as (yes, no):`` then ``with yes: ...`` and ``with no: ...``."""
        with self.builder.if_else(condition.ir) as branches:
            yield branches

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
