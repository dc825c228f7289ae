"""Text from the standard input, whatever its encoding: UTF-8, else Latin-1, with what could not be read said once."""

from __future__ import annotations

import codecs
import sys

from anymamba.language import _

_WIDE = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))

_said: set[str] = set()


def decode(content: bytes) -> tuple[str, str | None]:
    """(text, what was assumed or lost, or None). A byte order mark decides; then UTF-8.

    Bytes that are not UTF-8 are taken as Windows-1252 (Latin-1 and a few signs more) when no byte beyond ASCII makes sense as UTF-8;
    where some do, the text is UTF-8 with damage, and each damaged place becomes U+FFFD.
    """
    for mark, encoding in _WIDE:
        if content.startswith(mark):
            return content.decode(encoding, "replace"), None
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError as error:
        position, byte = error.start, content[error.start]
    where = _("byte 0x{byte:02x} at position {position}").format(byte=byte, position=position)
    repaired = content.decode("utf-8", "replace")
    if any(ord(character) > 0x7F and character != "\ufffd" for character in repaired):
        return repaired, _("the input is UTF-8 with damage ({where}): damaged characters are read as U+FFFD").format(
            where=where
        )
    return content.decode("cp1252", "replace"), _("the input is not UTF-8 ({where}): it is read as Latin-1").format(
        where=where
    )


def read_all() -> str:
    """All of it; what was assumed about the encoding is said on stderr."""
    buffer = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if buffer is None else _told(buffer.read())


def read_line() -> str | None:
    """The next line without its end; None at the end of the input."""
    buffer = getattr(sys.stdin, "buffer", None)
    line = sys.stdin.readline() if buffer is None else _told(buffer.readline())
    return line.rstrip("\r\n") if line else None


def note_once(note: str | None) -> None:
    """Says on stderr what ``decode`` has assumed, each kind once."""
    kind = (note or "").partition("(")[0]
    if note is not None and kind not in _said:
        _said.add(kind)
        print(note, file=sys.stderr)


def _told(content: bytes) -> str:
    text, note = decode(content)
    note_once(note)
    return text
