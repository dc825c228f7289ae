"""Bytes of a log to text: UTF-8, UTF-16 (PowerShell's ``>``), GBK (Chinese Windows), also mixed in one file."""

from __future__ import annotations

import codecs
from typing import Iterator, Protocol, Tuple

CHUNK = 1 << 20


class Readable(Protocol):
    """What a log is read from."""

    def read(self, size: int) -> bytes: ...


def sniff(head: bytes) -> str:
    """The encoding of a log by its first bytes: "utf-16-le", "utf-16-be" or "utf-8" (which stands for "by line")."""
    if head.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    if len(head) >= 8:
        even, odd = head[0:4096:2], head[1:4096:2]
        if odd.count(0) > 0.4 * len(odd) and even.count(0) < 0.05 * len(even):
            return "utf-16-le"
        if even.count(0) > 0.4 * len(even) and odd.count(0) < 0.05 * len(odd):
            return "utf-16-be"
    return "utf-8"


def chunks(stream: Readable) -> Iterator[Tuple[str, str]]:
    """(encoding, text) pieces that end at a line end, or after CHUNK characters where a log has no line ends."""
    head = stream.read(CHUNK)
    encoding = sniff(head)
    if encoding != "utf-8":
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        rest = ""
        while head:
            text = rest + decoder.decode(head)
            cut = text.rfind("\n") + 1 or len(text)
            rest = text[cut:]
            yield encoding, text[:cut].replace("\ufeff", "")
            head = stream.read(CHUNK)
        yield encoding, rest + decoder.decode(b"", final=True)
        return
    if head.startswith(codecs.BOM_UTF8):
        head = head[3:]
    carried = b""
    while head:
        block = carried + head
        cut = block.rfind(b"\n") + 1
        if not cut:
            # no line end: keep the last bytes back, a character may be cut in two
            cut = max(0, len(block) - 4) if len(block) >= CHUNK else 0
        carried = block[cut:]
        if cut:
            yield decode(block[:cut])
        head = stream.read(CHUNK)
    if carried:
        yield decode(carried)


def decode(block: bytes) -> Tuple[str, str]:
    """UTF-8 where it is valid; else each line by itself, as UTF-8 or GBK."""
    try:
        return "utf-8", block.decode("utf-8")
    except UnicodeDecodeError:
        pass
    lines = []
    used = "utf-8"
    for line in block.split(b"\n"):
        try:
            lines.append(line.decode("utf-8"))
            continue
        except UnicodeDecodeError:
            pass
        try:
            text = line.decode("gb18030")
            used = "gbk"
        except UnicodeDecodeError:
            text = line.decode("utf-8", "replace")
        lines.append(text)
    return used, "\n".join(lines)
