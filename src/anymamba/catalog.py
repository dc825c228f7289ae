"""A catalog of translations, from the text that translators edit (.po) to the table that ``gettext`` reads (.mo).

Babel does this too, and a test holds the two equal. Here it takes the standard library alone: a source tree speaks Chinese on Python
3.8 with nothing installed, and a wheel is built from it without a further package.
"""

from __future__ import annotations

import re
import struct
from typing import Dict, Iterator, List, Tuple

_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


def compiled(po: bytes) -> bytes:
    """The .mo file of a .po file, both as bytes: two sorted tables of (length, position), of the sentences and of their translations."""
    pairs = sorted((key.encode("utf-8"), text.encode("utf-8")) for key, text in _entries(po.decode("utf-8")))
    header = struct.Struct("<7I")
    at = header.size + 2 * 8 * len(pairs)  # the texts follow the tables
    tables: List[int] = []
    texts: List[bytes] = []
    for side in (0, 1):
        for pair in pairs:
            tables += (len(pair[side]), at)
            texts.append(pair[side] + b"\0")
            at += len(texts[-1])
    start = header.pack(0x950412DE, 0, len(pairs), header.size, header.size + 8 * len(pairs), 0, header.size)
    return start + struct.pack("<{}I".format(len(tables)), *tables) + b"".join(texts)


def _entries(po: str) -> Iterator[Tuple[str, str]]:
    """Key and translation of every finished entry, as gettext keys them: context, \\4, singular, \\0, plural."""
    entry: Dict[str, List[str]] = {}
    guessed, field = False, ""
    for line in [*po.splitlines(), 'msgid ""']:
        fuzzy = line.startswith("#,") and "fuzzy" in line
        before, quote, text = line.partition('"')
        name = before.partition("[")[0].rstrip()  # "" where the field of the line before goes on
        if fuzzy or name in ("msgctxt", "msgid") and field in ("", "msgstr"):  # the next entry begins
            if any(entry.get("msgstr", ())) and not guessed:
                context = entry["msgctxt"][0] + "\4" if "msgctxt" in entry else ""
                yield context + "\0".join(entry["msgid"] + entry.get("msgid_plural", [])), "\0".join(entry["msgstr"])
            if field == "msgstr":
                guessed = False
            entry, field = {}, ""
            guessed |= fuzzy  # a guess that nobody has read
        if not quote or line.startswith("#"):
            continue
        if name:
            field = name
            entry.setdefault(field, []).append("")
        text = text.rstrip()[:-1]
        if "\\" in text:
            text = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape.group(1), escape.group(1)), text)
        entry[field][-1] += text
