"""What a file is, by its content where the name does not say: text, records, compressed, or nothing that can be read as text.

Compressed files (gzip, bzip2, xz) are read as what is inside them.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from anymamba.errors import AnymambaError
from anymamba.language import _

RECORD_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""Ending of the name -> the form of its records; every other file is plain text, whatever its name."""

HEAD = 8192
"""Bytes by which a file is judged."""

_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
PACKED_ENDINGS = (".gz", ".bz2", ".xz")

_BINARY = {
    b"%PDF": "PDF", b"PK\x03\x04": "ZIP (.docx, .xlsx, .epub, .npz, ...)", b"\xd0\xcf\x11\xe0": "Microsoft Office", b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"\x7fELF": "ELF", b"MZ\x90": "Windows", b"SQLite format 3": "SQLite",
    b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard", b"ID3": "MP3", b"OggS": "Ogg", b"RIFF": "RIFF (.wav, .webp)",
    b"{\\rtf": "RTF", b"PAR1": "Parquet", b"\x93NUMPY": "NumPy", b"\x80\x02": "pickle",
}  # fmt: skip
"""First bytes -> what such a file is."""

_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_CONTROL = bytes([*range(1, 8), 11, *range(14, 27), *range(28, 32)])
_MOST_CONTROL = 0.1
"""Share of control characters above which no encoding makes a text of it."""


@dataclass
class Opened:
    """stream: the content, unpacked. at(): bytes of the file that were read so far, packed as they are on the disk."""

    stream: IO[bytes]
    raw: IO[bytes]
    _last: int = 0

    def at(self) -> int:
        if not self.raw.closed:  # a text wrapper around the stream closes it at its end
            self._last = self.raw.tell()
        return self._last


def kind_of(source: str) -> str:
    """"jsonl", "json", "csv", "parquet" or "text", by the name without the ending of a compressed file."""
    path = Path(source)
    if path.suffix.lower() in PACKED_ENDINGS:
        path = path.with_suffix("")
    return RECORD_KINDS.get(path.suffix.lower(), "text")


@contextmanager
def opened(source: str) -> Iterator[Opened]:
    """The file for reading. Raises AnymambaError when it cannot be opened, and when a compressed one turns out to be damaged."""
    try:
        raw: IO[bytes] = open(source, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise AnymambaError("data", _("{source} cannot be read").format(source=source), why=str(error)) from error
    with raw:
        start = raw.read(6)
        raw.seek(0)
        unpack = next((function for magic, function in _PACKED.items() if start.startswith(magic)), None)
        try:
            yield Opened(unpack(raw) if unpack else raw, raw)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise AnymambaError(
                "data",
                _("{source}: the compressed file is damaged or cut short").format(source=source),
                why=str(error) or type(error).__name__,
            ) from error
        except OSError as error:
            raise AnymambaError("data", _("{source} cannot be read").format(source=source), why=str(error)) from error


def head_of(source: str) -> bytes:
    """The first bytes, unpacked. Raises AnymambaError for an empty file."""
    with opened(source) as file:
        head = file.stream.read(HEAD)
    if not head:
        raise AnymambaError("data", _("{source}: the file is empty").format(source=source))
    return head


def refuse_binary(source: str, head: bytes, encoding: str) -> None:
    """Raises AnymambaError when no text begins like this, with what it is or the offset of the first byte that no text has."""
    name = next((name for magic, name in _BINARY.items() if head.startswith(magic)), None)
    if name is None and head[257:262] == b"ustar":
        name = "tar"
    if name is not None:
        raise _binary(source, _("it begins like a file of the kind {name}").format(name=name))
    wide = encoding.lower().replace("-", "").replace("_", "").startswith(("utf16", "utf32", "ucs2", "ucs4"))
    if wide or head.startswith(_MARKS):
        return
    if b"\x00" in head:
        raise _binary(source, _("byte {position} is zero").format(position=head.index(0)))
    control = [at for at, byte in enumerate(head) if byte in _CONTROL]
    if len(control) > _MOST_CONTROL * len(head):
        raise _binary(
            source,
            _("{count} of its first {bytes} bytes are control characters, the first at byte {position}").format(
                count=len(control), bytes=len(head), position=control[0]
            ),
        )


def _binary(source: str, why: str) -> AnymambaError:
    return AnymambaError(
        "data",
        _("{source}: this is a binary file, not text").format(source=source),
        why=why,
        fix=_(
            "unpack or export it as text first (.txt, .md, .jsonl, .csv, source code, ...; .gz, .bz2 and .xz are "
            "unpacked for you)"
        ),
    )
