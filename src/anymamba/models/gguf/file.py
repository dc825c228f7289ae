"""A GGUF file's header, read with every number checked before it is believed, and its tensors as bytes in a mapped file.

The file may come from anywhere: no count, length or offset in it makes us allocate more than what the file's own size explains, or read
past its end, and an error names the tensor or key and the byte at which the file stops making sense.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymamba.errors import AnymambaError, UnsupportedError
from anymamba.language import _
from anymamba.models.gguf.types import ARRAY, SCALARS, STRING, TENSORS, TensorType

MAGIC = b"GGUF"
VERSIONS = 2, 3
_LEAST_ENTRY, _LEAST_TENSOR = 13, 24
"""Bytes of the shortest metadata entry (an empty key, a type, a byte) and of the shortest description of a tensor."""
_DEEPEST = 4
"""Arrays in arrays; dimensions of a tensor."""


@dataclass(frozen=True)
class TensorInfo:
    """shape: as torch has it, rows first. offset: of its first byte in the file. described_at: of its description."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    described_at: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


class GGUFFile:
    """metadata: every value by key. tensors: every description by name. Raises AnymambaError for a file that is cut short or damaged,
    UnsupportedError for a version or a tensor type that we do not know."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            # copy on write: who changes a weight changes his own memory
            self._data = np.memmap(path, dtype=np.uint8, mode="c") if size else np.empty(0, dtype=np.uint8)
        except OSError as error:
            raise AnymambaError("gguf", _("cannot read {path}").format(path=path), why=str(error)) from error
        header = _Header(path, self._data)
        self.metadata, self.tensors = header.metadata, header.tensors

    def raw(self, info: TensorInfo) -> np.ndarray[Any, Any]:
        """The tensor's bytes, (rows, bytes of a row), in the mapped file."""
        width = info.type.row_bytes(info.shape[-1])
        return self._data[info.offset : info.offset + info.bytes].reshape(-1, width)


def is_gguf(path: Path) -> bool:
    """Whether it is such a file, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    with open(path, "rb") as file:
        return file.read(4) == MAGIC


def _shown(name: str) -> str:
    """A name from the file as an error may show it: not at any length, and with its control characters escaped."""
    return repr(name[:80])[1:-1]


class _Header:
    def __init__(self, path: Path, data: np.ndarray[Any, Any]) -> None:
        self._path, self._view, self._size, self._at = path, memoryview(data), len(data), 0  # type: ignore[arg-type]
        self._what = _("the header")
        if self._take(4) != MAGIC:
            raise self._broken(_("it does not begin with GGUF"), 0)
        version = self._number("<I")
        if version & 0xFFFF == 0:
            raise UnsupportedError("gguf", _("{path} was written for big-endian machines").format(path=path))
        if version not in VERSIONS:
            raise UnsupportedError(
                "gguf",
                _("{path} is of GGUF version {version}").format(path=path, version=version),
                fix=_("known: ") + ", ".join(map(str, VERSIONS)),
            )
        tensors, entries = self._count(_LEAST_TENSOR), self._count(_LEAST_ENTRY)
        self.metadata: dict[str, Any] = {}
        for _index in range(entries):
            self._entry()
        described = [self._tensor() for _index in range(tensors)]
        self.tensors = self._placed(described)

    def _entry(self) -> None:
        self._what = _("the metadata")
        start = self._at
        key = self._string()
        self._what = _("metadata {key}").format(key=_shown(key))
        if key in self.metadata:
            raise self._broken(_("it is there twice"), start)
        self.metadata[key] = self._value(self._number("<I"), 0)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind != ARRAY or depth == _DEEPEST:
            raise self._broken(_("its type {number} is unknown").format(number=kind), self._at - 4)
        inner = self._number("<I")
        if inner in SCALARS:
            count = self._count(struct.calcsize(SCALARS[inner]))
            code = SCALARS[inner]
            return np.frombuffer(self._take(count * struct.calcsize(code)), dtype=code[0] + _NUMPY[code[1]])
        count = self._count(8 if inner == STRING else 12)
        return [self._value(inner, depth + 1) for _index in range(count)]

    def _tensor(self) -> TensorInfo:
        self._what = _("the list of tensors")
        start = self._at
        name = self._string()
        self._what = _("tensor {name}").format(name=_shown(name))
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _DEEPEST:
            raise self._broken(_("it has {count} dimensions").format(count=dimensions), self._at - 4)
        shape = tuple(reversed([self._number("<Q") for _index in range(dimensions)]))
        number, place = self._number("<I"), self._at
        if number not in TENSORS:
            raise UnsupportedError(
                "gguf",
                _("{path}: tensor {name} is of type {number}, which we cannot read (byte {offset})").format(
                    path=self._path, name=_shown(name), number=number, offset=place - 4
                ),
                fix=_("known: ") + ", ".join(kind.name for kind in TENSORS.values()),
            )
        kind = TENSORS[number]
        if min(shape) < 1 or shape[-1] % kind.size:
            raise self._broken(_("its shape {shape} is none for {type}").format(shape=shape, type=kind.name), start)
        return TensorInfo(name, shape, kind, self._number("<Q"), start)

    def _placed(self, described: list[TensorInfo]) -> dict[str, TensorInfo]:
        """With offsets from the beginning of the file; each within it, no two on the same bytes."""
        alignment = self.metadata.get("general.alignment", 32)
        self._what = _("metadata {key}").format(key="general.alignment")
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._broken(_("it is {value!r}, no power of two").format(value=alignment), self._at)
        start = -(-self._at // alignment) * alignment
        placed: dict[str, TensorInfo] = {}
        past, before = start, ""
        for info in sorted(described, key=lambda info: info.offset):
            self._what = _("tensor {name}").format(name=_shown(info.name))
            offset = start + info.offset
            if info.name in placed:
                raise self._broken(_("it is there twice"), info.described_at)
            if info.offset % alignment:
                reason = _("its data begins at byte {offset}, no multiple of {alignment} after the header")
                raise self._broken(reason.format(offset=offset, alignment=alignment), info.described_at)
            if offset < past:
                raise self._broken(_("its data begins within that of {name}").format(name=_shown(before)), info.described_at)
            if offset + info.bytes > self._size:
                reason = _("its {bytes} bytes at {offset} end after the file's {size}")
                raise self._broken(reason.format(bytes=info.bytes, offset=offset, size=self._size), info.described_at)
            past, before = offset + info.bytes, info.name
            placed[info.name] = TensorInfo(info.name, info.shape, info.type, offset, info.described_at)
        return placed

    def _take(self, count: int) -> memoryview:
        if count > self._size - self._at:
            missing = count - (self._size - self._at)
            raise self._broken(_("{count} bytes more than the file has are announced").format(count=missing), self._at)
        self._at += count
        return self._view[self._at - count : self._at]

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _count(self, least: int) -> int:
        """A number of things of so many bytes at least."""
        start, count = self._at, self._number("<Q")
        if count * least > self._size - self._at:
            raise self._broken(_("{count} entries are announced, more than fit into the file").format(count=count), start)
        return int(count)

    def _string(self) -> str:
        return bytes(self._take(self._count(1))).decode("utf-8", errors="replace")

    def _broken(self, reason: str, offset: int) -> AnymambaError:
        return AnymambaError(
            "gguf",
            _("{path} is cut short or damaged: {what} at byte {offset}").format(path=self._path, what=self._what, offset=offset),
            why=reason,
            fix=_("copy or download it again"),
        )


_NUMPY = {"B": "u1", "b": "i1", "H": "u2", "h": "i2", "I": "u4", "i": "i4", "f": "f4", "?": "?", "Q": "u8", "q": "i8", "d": "f8"}
