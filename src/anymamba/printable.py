"""Text of a model on a terminal: a byte model can write every control character there is, and none of them may act.

An escape sequence could clear the screen, change its title or its colours, or make the terminal type into the shell. On a terminal each
control character is therefore shown as a picture of itself; what goes to a file or a pipe stays as the model wrote it.
"""

from __future__ import annotations

import json
import re
from typing import Any, TextIO

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t\r"}  # U+241B is the picture of ESC
_PICTURES[0x7F] = "\u2421"
_PICTURES.update(dict.fromkeys(range(0x80, 0xA0), "\ufffd"))  # C1 controls: one of them begins a sequence like ESC [


class Printable:
    """``show(text)`` returns what may be written to the stream. A carriage return waits for what follows it: before a line feed it is
    half of a line's end, elsewhere it would let one line write over another."""

    def __init__(self, stream: TextIO) -> None:
        self._filters = stream.isatty()
        self._return_waits = False

    def show(self, text: str) -> str:
        if not self._filters:
            return text
        if self._return_waits:
            text = "\r" + text
        self._return_waits = text.endswith("\r")
        text = text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\u240d")
        return text.translate(_PICTURES)


def shown(text: str, stream: TextIO) -> str:
    """A whole text as it may be written to the stream."""
    return Printable(stream).show(text)


def one_json_line(document: Any) -> str:
    """JSON in one line that is safe on a terminal, too: it escapes DEL and the C1 controls, which JSON would let pass."""
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(document, ensure_ascii=False))
