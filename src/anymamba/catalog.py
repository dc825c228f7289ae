"""A catalog of translations, from the text that translators edit (.po) to the table that ``gettext`` reads (.mo).

Babel does this too, and a test holds the two equal. Here it takes the standard library alone: a source tree speaks Chinese on Python
3.8 with nothing installed, and a wheel is built from it without a further package.
"""

from __future__ import annotations

import re
import struct
from typing import Dict, Iterator, List, Tuple

_FIELD = re.compile(r'(?:(\w+)(?:\[\d+\])? )?"(.*)"')
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
    for block in re.split(r"\r?\n\s*\n", po):
        fields: Dict[str, List[str]] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):  # comments, obsolete entries, flags
                if line.startswith("#,") and "fuzzy" in line:
                    break  # a guess that nobody has read
                continue
            match = _FIELD.fullmatch(line)
            if match is None:
                continue
            if match.group(1):  # else the line goes on with the field of the line before
                name = match.group(1)
                fields.setdefault(name, []).append("")
            text = match.group(2)
            if "\\" in text:
                text = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape.group(1), escape.group(1)), text)
            fields[name][-1] += text
        else:
            if any(fields.get("msgstr", ())):
                context = fields["msgctxt"][0] + "\4" if "msgctxt" in fields else ""
                yield context + "\0".join(fields["msgid"] + fields.get("msgid_plural", [])), "\0".join(fields["msgstr"])
