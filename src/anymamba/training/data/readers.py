"""Files to documents: plain text of any name, JSON, CSV and Parquet records, compressed or not, folders, and ``hf:NAME`` for a
Hugging Face data set.

A file that is named and cannot be read is an error; one found inside a folder, or a single bad record, is a counted skip.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.training.data.filekinds import HEAD, RECORD_KINDS, head_of, kind_of, opened, refuse_binary
from anymamba.training.data.recordfiles import Records, Seen
from anymamba.training.data.recordfiles import records as _records
from anymamba.training.data.skips import Skips

DOCUMENT_BORDER = "<|endoftext|>"
"""A line of a text file that holds only this ends a document, as in the TinyStories and OpenWebText dumps."""

BLOCK = 1 << 20
"""Bytes read at once from a text file."""

_LEFT_OUT_FOLDERS = {"__pycache__", "node_modules"}


@dataclass(frozen=True)
class Source:
    """Stands before the documents of a file or data set (``documents(..., with_sources=True)``)."""

    name: str


def sources(names: list[str], records_only: bool = False) -> list[tuple[str, bool]]:
    """(path or hf:NAME, was it named by the user) in a fixed order; folders are walked and sorted, without hidden files.

    records_only: only JSON, CSV and Parquet. Raises AnymambaError for a path that does not exist, a folder without a file to
    read, or a named file that holds no records where they are needed.
    """
    pairs: list[tuple[str, bool]] = []
    for name in names:
        path = Path(name).expanduser()
        if name.startswith("hf:"):
            pairs.append((name, True))
        elif path.is_dir():
            inside = [file for file in _walk(path) if not records_only or kind_of(file) != "text"]
            if not inside:
                raise AnymambaError(
                    "data",
                    _("the folder {name} holds no file to read").format(name=name),
                    fix=_record_kinds() if records_only else None,
                )
            pairs += [(file, False) for file in inside]
        elif not path.exists():
            raise AnymambaError(
                "data",
                _("{name} does not exist").format(name=name),
                fix=_("name a file or a folder; a Hugging Face data set is written hf:OWNER/NAME"),
            )
        elif records_only and kind_of(str(path)) == "text":
            raise AnymambaError(
                "data", _("{name}: a text file holds no questions and answers").format(name=name), fix=_record_kinds()
            )
        else:
            pairs.append((str(path), True))
    return pairs


def check(names: list[str], encoding: str, records_only: bool = False) -> int:
    """Looks at the first bytes of every named file, before any work; the bytes of all files together (packed as they are).

    Raises AnymambaError for what ``sources`` refuses, and for a named file that is empty, binary or not in its encoding there.
    """
    size = 0
    for source, is_explicit in sources(names, records_only):
        if source.startswith("hf:"):
            continue
        size += os.path.getsize(source)
        if is_explicit and kind_of(source) != "parquet":
            head = head_of(source)
            refuse_binary(source, head, encoding)
            if kind_of(source) == "text":
                next(iter(_text_blocks(source, encoding)), None)
    return size


def check_encoding(name: str) -> None:
    """Raises AnymambaError (usage) for an encoding that Python does not have, or that is none of text."""
    try:
        if not getattr(codecs.lookup(name), "_is_text_encoding", True):
            raise LookupError(_("{name} is not an encoding of text").format(name=name))
    except LookupError as error:
        fix = _("utf-8, utf-16, gb18030, big5, latin-1, ...")
        raise AnymambaError("usage", f"--encoding: {error}", fix=fix) from error


def documents(
    names: list[str],
    skips: Skips,
    text_field: str = "text",
    encoding: str = "utf-8",
    seen: Seen | None = None,
    with_sources: bool = False,
) -> Iterator[Any]:
    """The text of every document in pieces, with None after the last piece of each: a big file is never held whole.

    text_field: the field of a record that holds the text. Skips are counted in ``skips``. seen: told (file, bytes of it read).
    with_sources: a ``Source`` before the documents of each file.
    """
    for source, is_explicit in sources(names):
        if with_sources:
            yield Source(source)
        if source.startswith("hf:") or kind_of(source) != "text":
            yield from _record_documents(source, is_explicit, skips, text_field, encoding, seen)
        elif is_explicit or _readable(source, encoding, skips):
            yield from _text_documents(source, encoding, skips, seen)


def records(source: str, named: bool, skips: Skips, seen: Seen | None = None, encoding: str = "utf-8") -> Records:
    """(where, record) of a source of records; a file of a folder that cannot be read as such is a counted skip."""
    try:
        if not source.startswith("hf:") and kind_of(source) != "parquet":
            refuse_binary(source, head_of(source), encoding)
        yield from _records(source, skips, seen, encoding)
    except AnymambaError as error:
        if named or error.code != "data":
            raise
        _skip_file(source, error, skips)


def no_text(field: str, record: dict[str, Any]) -> tuple[str, str]:
    """(kind, detail): why this record has no usable text in that field."""
    if field not in record:
        have = ", ".join(sorted(map(str, record))[:6])
        return _("has no field {field!r}").format(field=field), _("it has: {have}").format(have=have)
    if isinstance(record[field], str):
        return _("the field {field!r} is empty").format(field=field), ""
    return _("the field {field!r} is no text").format(field=field), type(record[field]).__name__


def _walk(folder: Path) -> list[str]:
    """Every file below, sorted; hidden files and folders, and what programs keep for themselves, are left out."""
    paths: list[str] = []
    for place, inside, files in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".") and name not in _LEFT_OUT_FOLDERS]
        paths += [os.path.join(place, name) for name in files if not name.startswith(".")]
    return sorted(paths)


def _record_kinds() -> str:
    kinds = ", ".join(RECORD_KINDS)
    return _("use one of {kinds} (also with .gz)").format(kinds=kinds)


def _record_documents(
    source: str, named: bool, skips: Skips, text_field: str, encoding: str, seen: Seen | None
) -> Iterator[str | None]:
    for where, record in records(source, named, skips, seen, encoding):
        text = record.get(text_field)
        if isinstance(text, str) and text:
            yield text
            yield None
        else:
            skips.skip(where, *no_text(text_field, record))


def _skip_file(source: str, error: AnymambaError, skips: Skips) -> None:
    skips.total += 1
    what = error.what.removeprefix(source).lstrip(":： ")
    skips.skip(source, what, error.why or "")


def _readable(source: str, encoding: str, skips: Skips) -> bool:
    """Reads a file of a folder once through, so that a bad one is left out whole."""
    try:
        for __ in _text_blocks(source, encoding):
            pass
    except AnymambaError as error:
        if error.code == "usage":
            raise
        _skip_file(source, error, skips)
        return False
    return True


def _text_blocks(source: str, encoding: str, seen: Seen | None = None) -> Iterator[str]:
    """Decoded blocks of a text file, a byte-order mark left out. Raises AnymambaError with the offset of the first wrong byte."""
    check_encoding(encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    with opened(source) as file:
        head = file.stream.read(HEAD)
        if not head:
            raise AnymambaError("data", _("{source}: the file is empty").format(source=source))
        refuse_binary(source, head, encoding)
        offset, block, first = 0, head, True
        while True:
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = offset - waiting + error.start
                raise AnymambaError(
                    "data",
                    _("{source}: not {encoding} text at byte {where}").format(
                        source=source, encoding=encoding, where=where
                    ),
                    why=str(error.reason),
                    fix=_other_encoding(head),
                ) from error
            if first:
                text, first = text.removeprefix("\ufeff"), False
            if seen is not None:
                seen(source, file.at())
            if text:
                yield text
            if not block:
                return
            offset += len(block)
            block = file.stream.read(BLOCK)


def _other_encoding(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _("the file begins like UTF-16: add --encoding utf-16")
    return _("convert the file to UTF-8, or name its encoding: --encoding gb18030, --encoding latin-1, ...")


def _text_documents(source: str, encoding: str, skips: Skips, seen: Seen | None = None) -> Iterator[str | None]:
    """Pieces end at line borders, so that a tokenizer that works line by line gives what it gives for the whole text."""
    rest = ""
    skips.total += 1
    for block in _text_blocks(source, encoding, seen):
        text = rest + block
        if DOCUMENT_BORDER not in text:  # nearly every block: no need to look at its lines
            end = text.rfind("\n") + 1
            rest = text[end:] if len(text) - end < BLOCK else ""
            yield text[: len(text) - len(rest)]
            continue
        lines = text.splitlines(keepends=True)
        # a line without its end, or with a \r whose \n may come with the next block, waits for more
        rest = lines.pop() if lines and not lines[-1].endswith("\n") and len(lines[-1]) < BLOCK else ""
        start = 0
        for index, line in enumerate(lines):
            if line.strip() == DOCUMENT_BORDER:
                yield "".join(lines[start:index])
                yield None
                start = index + 1
                skips.total += 1
        yield "".join(lines[start:])
    if rest.strip() != DOCUMENT_BORDER:
        yield rest
    yield None
