"""Records of one source: JSON lines, JSON arrays, CSV, Parquet, Hugging Face data sets.

A record is a dict; a bad line is a counted skip.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.training.data.filekinds import Opened, kind_of, opened
from anymamba.training.data.skips import Skips

Seen = Callable[[str, int], None]
"""Told (source, bytes of it read so far) now and then."""

Records = Iterator[tuple[str, dict[str, Any]]]

_TELL_EVERY = 256
_BLOCK = 1 << 20
_LONGEST_LINE = 1 << 26


def records(source: str, skips: Skips, seen: Seen | None = None, encoding: str = "utf-8") -> Records:
    """(where, record) of every record that is a JSON object or a row; ``where`` is file:line, or file:number of the row."""
    if source.startswith("hf:"):
        yield from _dataset(source, skips)
        return
    kind = kind_of(source)
    if kind == "parquet":
        yield from _parquet(source, skips)
        return
    tell = seen or (lambda source, size: None)
    with opened(source) as file:
        if kind == "csv":
            yield from _csv(source, file, skips, tell, encoding)
        elif kind == "json" and not _is_lines(source):
            yield from _json(source, file, skips, tell, encoding)
        else:
            yield from _json_lines(source, file, skips, tell, encoding)


def _empty(source: str) -> AnymambaError:
    return AnymambaError("data", _("{source}: the file is empty").format(source=source))


def _count(skips: Skips, where: str, record: Any) -> bool:
    skips.total += 1
    if isinstance(record, dict):
        return True
    skips.skip(where, _("not a JSON object"), type(record).__name__)
    return False


def _json_lines(source: str, file: Opened, skips: Skips, seen: Seen, encoding: str) -> Records:
    number = 0
    for number, line in enumerate(_lines(source, file, encoding), 1):
        if number % _TELL_EVERY == 0:
            seen(source, file.at())
        if not line.strip():
            continue
        where = f"{source}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8") if isinstance(line, bytes) else line
            record = json.loads(text)
        except UnicodeDecodeError as error:
            skips.total += 1
            skips.skip(where, _("not UTF-8"), _("byte {position} of the line").format(position=error.start))
        except (ValueError, RecursionError) as error:
            skips.total += 1
            skips.skip(where, _("not JSON"), str(error))
        else:
            if _count(skips, where, record):
                yield where, record
    seen(source, file.at())
    if not number:
        raise _empty(source)


def _lines(source: str, file: Opened, encoding: str) -> Iterator[bytes | str]:
    """Lines as bytes where they are UTF-8 (a bad one then costs itself alone), else decoded."""
    if codecs.lookup(encoding).name == "utf-8":
        return iter(file.stream)
    return iter(io.TextIOWrapper(file.stream, encoding=encoding, errors="replace", newline="\n"))


def _is_lines(source: str) -> bool:
    """Whether a .json file really holds an object a line, as many data sets do."""
    with opened(source) as file:
        first = file.stream.readline(_LONGEST_LINE).strip().removeprefix(codecs.BOM_UTF8)
        second = file.stream.readline(_LONGEST_LINE).strip()
    try:
        return isinstance(json.loads(first), dict) and second.startswith(b"{")
    except ValueError:
        return False


def _json(source: str, file: Opened, skips: Skips, seen: Seen, encoding: str) -> Records:
    """The objects of an array, one after the other: a large file is never held whole. A single object is one record, or, when
    it has nothing but a list of objects under one of its names ({"data": [...]}), those."""
    reader = _JsonText(source, file, seen, encoding)
    if reader.next_character() == "[":
        for number, (line, record) in enumerate(reader.elements(), 1):
            where = (
                f"{source}:{line}" if line > 1 else _("{source}:record {number}").format(source=source, number=number)
            )
            if _count(skips, where, record):
                yield where, record
        return
    record = reader.whole()
    lists = [value for value in record.values() if _is_table(value)] if isinstance(record, dict) else []
    inside = lists[0] if len(lists) == 1 and not any(name in record for name in ("messages", "conversations", "text")) else [record]
    for number, entry in enumerate(inside, 1):
        where = _("{source}:record {number}").format(source=source, number=number)
        if _count(skips, where, entry):
            yield where, entry


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


class _JsonText:
    """JSON text read block by block."""

    def __init__(self, source: str, file: Opened, seen: Seen, encoding: str) -> None:
        self.source, self.file, self.seen = source, file, seen
        self.decoder = codecs.getincrementaldecoder("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding)()
        self.text, self.line, self.ended = "", 1, False

    def more(self, size: int = _BLOCK) -> None:
        block = self.file.stream.read(size)
        self.ended = not block
        try:
            self.text += self.decoder.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            raise self._wrong(str(error.reason), _("--encoding names its encoding")) from error
        self.seen(self.source, self.file.at())

    def next_character(self) -> str:
        """The next character that is no space, which stays; an empty string at the end."""
        while True:
            bare = self.text.lstrip()
            self.line += self.text.count("\n", 0, len(self.text) - len(bare))
            self.text = bare
            if bare or self.ended:
                return bare[:1]
            self.more()

    def elements(self) -> Iterator[tuple[int, Any]]:
        """(line, value) of every element of the array that begins here."""
        self.text = self.text[1:]
        while self.next_character() not in ("]", ""):
            line = self.line
            yield line, self.value()
            following = self.next_character()
            if following == ",":
                self.text = self.text[1:]
            elif following not in ("]", ""):
                raise self._wrong(_("expected , or ] after a record"))
        if not self.text:
            raise self._wrong(_("the array does not end: the file is cut short"))

    def value(self) -> Any:
        size = _BLOCK
        while True:
            try:
                document, end = json.JSONDecoder().raw_decode(self.text)
            except (ValueError, RecursionError) as error:
                if self.ended:
                    raise self._wrong(str(error)) from error
                self.more(size)
                size *= 2
                continue
            if end == len(self.text) and not self.ended:  # a number may go on in the next block
                self.more(size)
                continue
            self.line += self.text.count("\n", 0, end)
            self.text = self.text[end:]
            return document

    def whole(self) -> Any:
        if not self.next_character():
            raise _empty(self.source)
        document = self.value()
        if self.next_character():
            raise self._wrong(_("more follows after the end of the document"))
        return document

    def _wrong(self, why: str, fix: str | None = None) -> AnymambaError:
        return AnymambaError(
            "data", _("{source}:{line}: not JSON").format(source=self.source, line=self.line), why=why, fix=fix
        )


def _csv(source: str, file: Opened, skips: Skips, seen: Seen, encoding: str) -> Records:
    """Rows under the names of the first line; separated by whichever of , ; and tab that line has most of."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    text = io.TextIOWrapper(file.stream, encoding=name, newline="")
    try:
        first = text.readline()
        if not first.strip():
            raise _empty(source)
        separator = max(",;\t", key=first.count)
        names = next(csv.reader([first], delimiter=separator))
        reader = csv.reader(text, delimiter=separator)
        line = 2
        for row in reader:
            where, line = f"{source}:{line}", reader.line_num + 2
            if reader.line_num % _TELL_EVERY == 0:
                seen(source, file.at())
            if not row:
                continue
            skips.total += 1
            if len(row) == len(names):
                yield where, dict(zip(names, row))
            else:
                skips.skip(where, _("not as many fields as the first line"), f"{len(row)}, {len(names)}")
    except UnicodeDecodeError as error:
        raise AnymambaError(
            "data",
            _("{source}: not {encoding} text").format(source=source, encoding=encoding),
            why=str(error),
            fix=_("name its encoding: --encoding gb18030, ..."),
        ) from error
    except csv.Error as error:
        raise AnymambaError(
            "data", _("{source}: not a readable CSV file").format(source=source), why=str(error)
        ) from error


def _parquet(source: str, skips: Skips) -> Records:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing(".parquet", "pyarrow", error) from error
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    skips.total += 1
                    yield f"{source}:{number}", record
    except (OSError, pyarrow.ArrowException) as error:
        raise AnymambaError(
            "data", _("{source}: not a readable Parquet file").format(source=source), why=str(error)
        ) from error


def _dataset(source: str, skips: Skips) -> Records:
    """hf:OWNER/NAME, hf:OWNER/NAME:SPLIT, hf:OWNER/NAME:CONFIG:SPLIT; streamed."""
    try:
        import datasets
    except ImportError as error:
        raise _missing(source, "datasets", error) from error
    name, *rest = source.removeprefix("hf:").split(":")
    config, split = ([None, *rest] if len(rest) < 2 else rest)[:2] if rest else (None, "train")
    try:
        stream = datasets.load_dataset(name, config, split=split, streaming=True)
        for number, record in enumerate(stream, 1):
            skips.total += 1
            yield f"{source}:{number}", dict(record)
    except Exception as error:
        raise AnymambaError(
            "data",
            _("{source}: the data set cannot be read").format(source=source),
            why=f"{type(error).__name__}: {error}",
            fix=_("set HF_ENDPOINT to use a mirror"),
        ) from error


def _missing(what: str, package: str, error: ImportError) -> AnymambaError:
    return AnymambaError(
        "data",
        _("{what} needs the package {package}").format(what=what, package=package),
        why=str(error),
        fix="pip install 'anymamba[data]'",
    )
