"""Regular expressions for logs: a blank stands for any white space, since tools wrap their lines, and quotes stand for one another, since
editors, forums and translators change them."""

from __future__ import annotations

import functools
import re
from typing import Pattern

_TYPOGRAPHIC = dict(zip(map(ord, "‘’‚′“”„″：，；（）\u3000\u00a0"), "''''\"\"\"\":,;()  "))
_QUOTES = "'`"


def plain(text: str) -> str:
    """The text with typographic quotes and full-width punctuation as a program prints them; not a character more or less."""
    return text if text.isascii() else text.translate(_TYPOGRAPHIC)


@functools.lru_cache(maxsize=None)
def compiled(pattern: str) -> Pattern[str]:
    """A blank matches one or more white-space characters, a line end too, and so does ``blank+``; ``blank?`` and ``blank*`` none or more.
    ``^`` and ``$`` match at lines. A quote matches a back quote too, the blank after a colon may be missing, and an exception's name may
    stand in the line above its message, as editors show it."""
    return re.compile(_loose(plain(pattern)).replace(r"Error:\s*", r"Error(?::\s*|\s*\n)"), re.MULTILINE)


def _loose(pattern: str) -> str:
    parts = []
    in_class = False
    index = 0
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            parts.append(pattern[index : index + 2])
            index += 2
            continue
        if character == "[" and not in_class:
            in_class = True
        elif character == "]" and in_class and pattern[index - 1] not in "[^":
            in_class = False
        if character in _QUOTES:
            parts.append(_QUOTES if in_class else "[" + _QUOTES + "]")
        elif character != " ":
            parts.append(character)
        elif in_class:
            parts.append(r"\s")
        elif pattern[index + 1 : index + 2] in ("?", "*"):
            parts.append(r"\s*")
            index += 1
        else:
            after_colon = pattern[index - 1 : index] == ":" and pattern[max(0, index - 2) : index] != "?:"
            parts.append(r"\s*" if after_colon else r"\s+")
            index += pattern[index + 1 : index + 2] == "+"  # \s++ is an error before Python 3.11
        index += 1
    return "".join(parts)
