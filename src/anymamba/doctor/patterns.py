"""Regular expressions for logs, in which a blank stands for any white space: tools wrap their lines."""

from __future__ import annotations

import functools
import re
from typing import Pattern


@functools.lru_cache(maxsize=None)
def compiled(pattern: str) -> Pattern[str]:
    """A blank matches one or more white-space characters, a line end too, and so does ``blank+``; ``blank?`` and ``blank*`` none or more.
    ``^`` and ``$`` match at lines."""
    return re.compile(_loose(pattern), re.MULTILINE)


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
        if character != " ":
            parts.append(character)
        elif in_class:
            parts.append(r"\s")
        elif pattern[index + 1 : index + 2] in ("?", "*"):
            parts.append(r"\s*")
            index += 1
        else:
            parts.append(r"\s+")
            index += pattern[index + 1 : index + 2] == "+"  # \s++ is an error before Python 3.11
        index += 1
    return "".join(parts)
