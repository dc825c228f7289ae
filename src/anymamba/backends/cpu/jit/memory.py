"""Typed memory for kernels: float32 lanes in registers; float32, bfloat16 or float16 in memory; partial vectors at the border."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from anymamba.backends.cpu.jit.values import F16, F32, I8, I16, I32, I64, Emitter, Operand, Value

_STORED: dict[str, tuple[ir.Type, int]] = {
    "float32": (F32, 4),
    "bfloat16": (I16, 2),
    "float16": (F16, 2),
    "int8": (I8, 1),
    "int32": (I32, 4),
    "int64": (I64, 8),
}


class _BFloat(ir.types._BaseFloatType):
    """LLVM's bfloat, which llvmlite does not name: only for the conversion instruction of hosts that have one."""

    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()


class Pointer:
    """Where elements of one dtype lie. ``count`` in load and store is the number of elements left from ``offset`` on: lanes past
    them read 0 and are not written."""

    def __init__(self, k: Emitter, dtype: str, address: Any) -> None:
        self.k, self.dtype, self.address = k, dtype, address
        self.type, self.bytes = _STORED[dtype]
        if dtype == "float16" and not k.target.f16:
            raise NotImplementedError(f"{k.target} does not convert float16")

    def at(self, offset: Value | int) -> Pointer:
        """The memory that starts ``offset`` elements further on."""
        return Pointer(self.k, self.dtype, self._element(offset))

    def load(self, offset: Value | int = 0, count: Value | int | None = None) -> Value:
        """``width`` elements from ``offset`` on, as a float32 vector. count 1, known while emitting, costs one plain load."""
        k, kind = self.k, ir.VectorType(self.type, self.k.width)
        if isinstance(count, int):
            assert count == 1
            return k.wrap(k.builder.insert_element(k.vector(0.0).ir, self.scalar(offset).ir, I32(0)))
        address = self._element(offset)
        if count is None:
            return self._to_float32(k.builder.load(address, align=self.bytes, typ=kind))
        zeros = ir.Constant(kind, [0] * k.width)
        if k.target.masked:
            name = f"llvm.masked.load.v{k.width}{self._suffix}.p0"
            return self._to_float32(k.intrinsic(name, kind, address, I32(self.bytes), _lanes(k, count), zeros).ir)
        slot = k.stack(kind)
        with k.if_else(count >= k.width) as (whole, part):
            with whole:
                k.builder.store(k.builder.load(address, align=self.bytes, typ=kind), slot)
            with part:
                k.builder.store(zeros, slot)
                with k.loop(0, count) as i:
                    element = k.builder.load(self._element(k.integer(offset) + i), typ=self.type)
                    k.builder.store(element, k.builder.gep(slot, [i.ir], source_etype=self.type))
        return self._to_float32(k.builder.load(slot, typ=kind))

    def store(self, offset: Value | int, value: Operand, count: Value | int | None = None) -> None:
        """Rounds to nearest even where the memory is narrower than float32."""
        k, kind = self.k, ir.VectorType(self.type, self.k.width)
        if isinstance(count, int):
            assert count == 1
            self.store_scalar(offset, k.wrap(k.builder.extract_element(k.vector(value).ir, I32(0))))
            return
        raw = self._from_float32(k.vector(value).ir)
        address = self._element(offset)
        if count is None:
            k.builder.store(raw, address, align=self.bytes)
            return
        if k.target.masked:
            name = f"llvm.masked.store.v{k.width}{self._suffix}.p0"
            k.intrinsic(name, ir.VoidType(), raw, address, I32(self.bytes), _lanes(k, count))
            return
        slot = k.stack(kind)
        with k.if_else(count >= k.width) as (whole, part):
            with whole:
                k.builder.store(raw, address, align=self.bytes)
            with part:
                k.builder.store(raw, slot)
                with k.loop(0, count) as i:
                    element = k.builder.load(k.builder.gep(slot, [i.ir], source_etype=self.type), typ=self.type)
                    k.builder.store(element, self._element(k.integer(offset) + i))

    def scalar(self, offset: Value | int = 0) -> Value:
        """One element: a float32 scalar, or a 64-bit integer from integer memory."""
        k = self.k
        raw = k.builder.load(self._element(offset), typ=self.type)
        if self.dtype == "int64":
            return k.wrap(raw)
        if self.dtype == "int32":
            return k.wrap(k.builder.sext(raw, I64))
        return self._to_float32(raw)

    def store_scalar(self, offset: Value | int, value: Value) -> None:
        self.k.builder.store(self._from_float32(value.ir), self._element(offset))

    def broadcast(self, offset: Value | int = 0) -> Value:
        """One element in every lane."""
        return self.k.vector(self.scalar(offset))

    def prefetch(self, offset: Value | int = 0, write: bool = False) -> None:
        """Asks for the cache line of an element ahead of its use; the address may lie outside the tensor."""
        self.k.intrinsic("llvm.prefetch.p0", ir.VoidType(), self._element(offset), I32(int(write)), I32(3), I32(1))

    def _element(self, offset: Value | int) -> Any:
        return self.k.builder.gep(self.address, [self.k.integer(offset).ir], source_etype=self.type)

    @property
    def _suffix(self) -> str:
        return {"float32": "f32", "bfloat16": "i16", "float16": "f16", "int8": "i8"}[self.dtype]


    def _to_float32(self, raw: Any) -> Value:
        k = self.k
        if self.dtype == "float16":
            return k.wrap(k.builder.fpext(raw, _like(raw, F32)))
        if self.dtype == "bfloat16":
            wide = _like(raw, I32)
            bits = k.builder.shl(k.builder.zext(raw, wide), _constant(wide, 16))
            return k.wrap(k.builder.bitcast(bits, _like(raw, F32)))
        if self.dtype == "int8":
            return k.wrap(k.builder.sitofp(k.builder.sext(raw, _like(raw, I32)), _like(raw, F32)))
        return k.wrap(raw)

    def _from_float32(self, value: Any) -> Any:
        k = self.k
        if self.dtype == "float16":
            return k.builder.fptrunc(value, _like(value, F16))
        if self.dtype != "bfloat16":
            return value
        if k.target.bf16 and isinstance(value.type, ir.VectorType):
            return k.builder.bitcast(k.builder.fptrunc(value, _like(value, _BFloat())), _like(value, I16))
        # round to nearest even in integer arithmetic; a NaN is made quiet, for rounding could turn it into infinity
        wide = _like(value, I32)
        bits = k.builder.bitcast(value, wide)
        odd = k.builder.and_(k.builder.lshr(bits, _constant(wide, 16)), _constant(wide, 1))
        rounded = k.builder.add(bits, k.builder.add(odd, _constant(wide, 0x7FFF)))
        quiet = k.builder.or_(bits, _constant(wide, 0x00400000))
        bits_or_nan = k.builder.select(k.builder.fcmp_unordered("uno", value, value), quiet, rounded)
        return k.builder.trunc(k.builder.lshr(bits_or_nan, _constant(wide, 16)), _like(value, I16))


def _lanes(k: Emitter, count: Value) -> Any:
    """Truth vector: lane index < count."""
    every = k.broadcast_ir(k.builder.trunc(k.minimum(count, k.width).ir, I32))
    return k.builder.icmp_signed("<", ir.Constant(ir.VectorType(I32, k.width), list(range(k.width))), every)


def _like(value: Any, element: ir.Type) -> ir.Type:
    return ir.VectorType(element, value.type.count) if isinstance(value.type, ir.VectorType) else element


def _constant(kind: ir.Type, number: int) -> Any:
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)
