"""What is computed with: float32 vectors and scalars, integers, variables, loops and conditions. ``emit.py`` shows how it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from llvmlite import ir

from anymamba.backends.cpu.jit.target import Target

F32, F16 = ir.FloatType(), ir.HalfType()
I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
PTR = ir.PointerType()

Operand: TypeAlias = "Value | float"
"""What statements take: a number known while emitting, or a value of the kernel."""

_FAST = ("contract", "nsz")
"""Only what keeps NaN, infinity and the order of sums: a*b + c may be fused, nothing may be reassociated."""


class Value:
    """An emitted value: a float32 vector or scalar, a 64-bit integer, or a truth value (also a vector of them)."""

    __slots__ = ("k", "ir")

    def __init__(self, k: Emitter, value: Any) -> None:
        self.k, self.ir = k, value

    @property
    def is_vector(self) -> bool:
        return isinstance(self.ir.type, ir.VectorType)

    @property
    def is_integer(self) -> bool:
        return isinstance(self.ir.type, ir.IntType)

    def _with(self, other: Operand, integer: str, floating: str, swap: bool = False) -> Value:
        a, b = self.k.match(self, other)
        a, b = (b, a) if swap else (a, b)
        builder = self.k.builder
        if a.is_integer:
            return Value(self.k, getattr(builder, integer)(a.ir, b.ir))
        return Value(self.k, getattr(builder, floating)(a.ir, b.ir, flags=_FAST))

    def __add__(self, other: Operand) -> Value:
        return self._with(other, "add", "fadd")

    def __sub__(self, other: Operand) -> Value:
        return self._with(other, "sub", "fsub")

    def __rsub__(self, other: Operand) -> Value:
        return self._with(other, "sub", "fsub", swap=True)

    def __mul__(self, other: Operand) -> Value:
        return self._with(other, "mul", "fmul")

    def __truediv__(self, other: Operand) -> Value:
        return self._with(other, "sdiv", "fdiv")

    def __rtruediv__(self, other: Operand) -> Value:
        return self._with(other, "sdiv", "fdiv", swap=True)

    __radd__, __rmul__, __floordiv__ = __add__, __mul__, __truediv__

    def __mod__(self, other: Operand) -> Value:
        return self._with(other, "srem", "frem")

    def __neg__(self) -> Value:
        return 0 - self if self.is_integer else Value(self.k, self.k.builder.fneg(self.ir, flags=_FAST))

    def _compare(self, sign: str, other: Operand) -> Value:
        a, b = self.k.match(self, other)
        if a.is_integer:
            return Value(self.k, self.k.builder.icmp_signed(sign, a.ir, b.ir))
        return Value(self.k, self.k.builder.fcmp_ordered(sign, a.ir, b.ir))

    def __lt__(self, other: Operand) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Operand) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Operand) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Operand) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Operand) -> Value:
        return self._compare("==", other)

    def both(self, other: Value) -> Value:
        """Logical and of two truth values."""
        return Value(self.k, self.k.builder.and_(self.ir, other.ir))


class Variable:
    """A value that changes: ``total = k.variable(0.0 or a Value)``, ``total.value``, ``total.set(x)``, ``total.add(x)``."""

    def __init__(self, k: Emitter, initial: Value) -> None:
        self.k, self.type = k, initial.ir.type
        self.slot = k.stack(self.type)
        self.set(initial)

    @property
    def value(self) -> Value:
        return Value(self.k, self.k.builder.load(self.slot, typ=self.type))

    def set(self, value: Operand) -> None:
        self.k.builder.store(self.k.match(value, self.value)[0].ir, self.slot)

    def add(self, value: Operand) -> None:
        self.set(self.value + value)


class Emitter:
    """One function of LLVM IR that is being written, and the statements that compute in it."""

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

    def stack(self, type: ir.Type) -> Any:
        """Memory for one ``type`` that LLVM will keep in a register where it can."""
        with self.builder.goto_block(self.entry):
            slot = self.builder.alloca(type)
        slot.type = PTR  # llvmlite still gives it a typed pointer, which newer LLVM no longer reads
        return slot

    def wrap(self, value: Any) -> Value:
        """An IR value as a Value."""
        return Value(self, value)

    def integer(self, value: Value | int) -> Value:
        return value if isinstance(value, Value) else Value(self, I64(value))

    def scalar(self, number: float) -> Value:
        return Value(self, F32(number))

    def vector(self, value: Operand) -> Value:
        """The same float in every lane."""
        if isinstance(value, Value):
            return value if value.is_vector else Value(self, self.broadcast_ir(value.ir))
        return Value(self, ir.Constant(ir.VectorType(F32, self.width), [float(value)] * self.width))

    def broadcast_ir(self, scalar: Any) -> Any:
        kind = ir.VectorType(scalar.type, self.width)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)

    def match(self, a: Operand, b: Operand) -> tuple[Value, Value]:
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

    def select(self, condition: Value, yes: Operand, no: Operand) -> Value:
        if not isinstance(yes, Value) and not isinstance(no, Value):
            yes = self.vector(yes)
        yes, no = self.match(yes, no)
        return Value(self, self.builder.select(condition.ir, yes.ir, no.ir))

    def minimum(self, a: Operand, b: Operand) -> Value:
        """The smaller; for floats, b where a is NaN."""
        a, b = self.match(a, b)
        return self.select(a < b, a, b)

    def maximum(self, a: Operand, b: Operand) -> Value:
        """The larger; for floats, b where a is NaN."""
        a, b = self.match(a, b)
        return self.select(a > b, a, b)

    def fma(self, a: Value, b: Operand, c: Operand) -> Value:
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

    def variable(self, initial: Operand) -> Variable:
        """Starts as a Value, or as a Python float in every lane of a vector, or as a Python int."""
        if not isinstance(initial, Value):
            initial = self.integer(initial) if isinstance(initial, int) else self.vector(initial)
        return Variable(self, initial)

    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: int = 1, reverse: bool = False) -> Iterator[Value]:
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
