"""Files to documents: .txt, .md, .jsonl, .parquet, folders of them, and ``hf:NAME`` for a Hugging Face data set.

A file that is named and cannot be read is an error; one found inside a folder, or a single bad record, is a counted skip.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import say
from anymamba.training.skips import Skips

TEXT_KINDS = (".txt", ".md", ".text", ".rst")
RECORD_KINDS = (".jsonl", ".parquet")
DOCUMENT_BORDER = "<|endoftext|>"
"""A line of a text file that holds only this ends a document, as in the TinyStories and OpenWebText dumps."""

BLOCK = 1 << 20
"""Bytes read at once from a text file."""


def sources(names: list[str], kinds: tuple[str, ...] = TEXT_KINDS + RECORD_KINDS) -> list[tuple[str, bool]]:
    """(path or hf:NAME, was it named by the user) in a fixed order; folders are walked and sorted.

    Raises AnymambaError for a path that does not exist, a folder without a readable file, or a kind of file we do not read.
    """
    found: list[tuple[str, bool]] = []
    for name in names:
        path = Path(name).expanduser()
        if name.startswith("hf:"):
            found.append((name, True))
        elif path.is_dir():
            inside = sorted(str(file) for file in path.rglob("*") if file.is_file() and file.suffix.lower() in kinds)
            if not inside:
                raise AnymambaError(
                    "data",
                    say(f"the folder {name} holds no {', '.join(kinds)} file", f"目录 {name} 中没有 {', '.join(kinds)} 文件"),
                )
            found += [(file, False) for file in inside]
        elif not path.exists():
            raise AnymambaError(
                "data",
                say(f"{name} does not exist", f"{name} 不存在"),
                fix=say(
                    "name a file or a folder; a Hugging Face data set is written hf:OWNER/NAME",
                    "请给出文件或目录；Hugging Face 数据集写作 hf:所有者/名称",
                ),
            )
        elif path.suffix.lower() not in kinds:
            raise AnymambaError(
                "data",
                say(
                    f"{name}: files of the kind {path.suffix or 'without a suffix'} are not read here",
                    f"{name}：不支持读取 {path.suffix or '无后缀'} 类型的文件",
                ),
                fix=say(f"use one of {', '.join(kinds)}", f"请使用 {', '.join(kinds)} 之一"),
            )
        else:
            found.append((str(path), True))
    return found


def documents(
    names: list[str], skips: Skips, text_field: str = "text", encoding: str = "utf-8"
) -> Iterator[str | None]:
    """The text of every document in pieces, with None after the last piece of each: a big file is never held whole.

    text_field: the field of a JSONL or Parquet record that holds the text. Skips are counted in ``skips``.
    """
    for source, named in sources(names):
        if source.startswith("hf:") or Path(source).suffix.lower() in RECORD_KINDS:
            for where, record in records(source, skips):
                text = record.get(text_field)
                if isinstance(text, str) and text:
                    yield text
                    yield None
                else:
                    skips.skip(where, no_text(text_field, record))
        elif named or _readable(source, encoding, skips):
            yield from _text_documents(source, encoding, skips)


def _readable(source: str, encoding: str, skips: Skips) -> bool:
    """Reads a file of a folder once through, so that a bad one is left out whole."""
    try:
        for _ in _text_blocks(source, encoding):
            pass
    except AnymambaError as error:
        skips.total += 1
        skips.skip(source, error.what.removeprefix(source).lstrip(":： "))
        return False
    return True


def records(source: str, skips: Skips) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of a JSONL or Parquet file or a data set; a line that is not a JSON object is a counted skip."""
    if source.startswith("hf:"):
        yield from _dataset_records(source, skips)
    elif source.lower().endswith(".parquet"):
        yield from _parquet_records(source, skips)
    else:
        yield from _jsonl_records(source, skips)


def no_text(field: str, record: dict[str, Any]) -> str:
    """Why this record has no usable text in that field."""
    if field not in record:
        have = ", ".join(sorted(map(str, record))[:6])
        return say(f"has no field {field!r} (it has: {have})", f"缺少字段 {field!r}（现有字段：{have}）")
    if isinstance(record[field], str):
        return say(f"the field {field!r} is empty", f"字段 {field!r} 为空")
    kind = type(record[field]).__name__
    return say(f"the field {field!r} is {kind}, not a text", f"字段 {field!r} 是 {kind}，不是文本")


def _open(source: str) -> Any:
    try:
        return open(source, "rb")
    except OSError as error:
        raise AnymambaError("data", say(f"{source} cannot be read", f"无法读取 {source}"), why=str(error)) from error


def _looks_binary(head: bytes) -> bool:
    return b"\x00" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE))


def _text_blocks(source: str, encoding: str) -> Iterator[str]:
    """Decoded blocks of a text file, a byte-order mark left out. Raises AnymambaError with the offset of the first wrong byte."""
    with _open(source) as file:
        head = file.read(8192)
        if not head:
            raise AnymambaError("data", say(f"{source}: the file is empty", f"{source}：文件为空"))
        if encoding.lower().replace("-", "") in ("utf8", "utf8sig") and _looks_binary(head):
            raise AnymambaError(
                "data",
                say(f"{source}: this is a binary file, not text", f"{source}：这是二进制文件，不是文本"),
                why=say(f"byte {head.index(0)} is zero", f"第 {head.index(0)} 字节为零"),
            )
        try:
            decoder = codecs.getincrementaldecoder(encoding)()
        except LookupError as error:
            raise AnymambaError("usage", say(f"--encoding: {error}", f"--encoding：{error}")) from error
        offset, block, first = 0, head, True
        while True:
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = offset - waiting + error.start
                raise AnymambaError(
                    "data",
                    say(f"{source}: not {encoding} text at byte {where}", f"{source}：第 {where} 字节处不是 {encoding} 文本"),
                    why=str(error.reason),
                    fix=_other_encoding(head),
                ) from error
            if first:
                text, first = text.removeprefix("\ufeff"), False
            if text:
                yield text
            if not block:
                return
            offset += len(block)
            block = file.read(BLOCK)


def _other_encoding(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return say("the file begins like UTF-16: add --encoding utf-16", "文件开头像 UTF-16：请加 --encoding utf-16")
    return say(
        "convert the file to UTF-8, or name its encoding: --encoding gb18030, --encoding latin-1, ...",
        "请将文件转换为 UTF-8，或指明其编码：--encoding gb18030、--encoding latin-1 等",
    )


def _text_documents(source: str, encoding: str, skips: Skips) -> Iterator[str | None]:
    """Pieces end at line borders, so that a tokenizer that works line by line gives what it gives for the whole text."""
    rest = ""
    skips.total += 1
    for block in _text_blocks(source, encoding):
        lines = (rest + block).splitlines(keepends=True)
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


def _jsonl_records(source: str, skips: Skips) -> Iterator[tuple[str, dict[str, Any]]]:
    with _open(source) as file:
        number = 0
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            skips.total += 1
            where = f"{source}:{number}"
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                skips.skip(where, say(f"not UTF-8 at byte {error.start} of the line", f"该行第 {error.start} 字节不是 UTF-8"))
            except (ValueError, RecursionError) as error:
                skips.skip(where, say(f"not JSON ({error})", f"不是 JSON（{error}）"))
            else:
                if isinstance(record, dict):
                    yield where, record
                else:
                    skips.skip(where, say("not a JSON object", "不是 JSON 对象"))
        if not number:
            raise AnymambaError("data", say(f"{source}: the file is empty", f"{source}：文件为空"))


def _parquet_records(source: str, skips: Skips) -> Iterator[tuple[str, dict[str, Any]]]:
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
            "data", say(f"{source}: not a readable Parquet file", f"{source}：不是可读的 Parquet 文件"), why=str(error)
        ) from error


def _dataset_records(source: str, skips: Skips) -> Iterator[tuple[str, dict[str, Any]]]:
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
            say(f"{source}: the data set cannot be read", f"{source}：无法读取该数据集"),
            why=f"{type(error).__name__}: {error}",
            fix=say("set HF_ENDPOINT to use a mirror", "可设置 HF_ENDPOINT 使用镜像站"),
        ) from error


def _missing(what: str, package: str, error: ImportError) -> AnymambaError:
    return AnymambaError(
        "data",
        say(f"{what} needs the package {package}", f"{what} 需要 {package} 包"),
        why=str(error),
        fix="pip install 'anymamba[data]'",
    )
