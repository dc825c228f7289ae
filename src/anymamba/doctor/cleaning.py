"""A line of a log without what terminals, installers, containers and chat quotes put around it."""

from __future__ import annotations

import html
import re

# colours and cursor movement (CSI), window titles and hyperlinks (OSC)
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
# the same colours where the escape character was lost in copying
_LOST_ANSI = re.compile(r"\[\d{1,2}(?:;\d{1,3})*m")
_PREFIX = re.compile(
    r"^(?:"
    r"\s+"
    r"|#\d+ \d+\.\d+ "  # docker build
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]?\d*Z? |\[\d{4}-\d\d-\d\dT[\d:.]+Z\] ?"  # CI time stamps
    r"|\(\w+ (?:pid=)\d+[^)\n]{0,60}\) ?|\[rank\d+\]: ?"  # ray, torchrun
    r"|(?:DEBUG|TRACE) (?=\s|Traceback|File|[A-Z]\w+Error)"  # uv -v
    r"|\[\d\d:\d\d:\d\d\] |\[\d+/\d+\] (?=Building|Installing)"
    r"|[│┃|├╰└─▶→>»•](?:[─▶>]*)(?=\s|$)"  # pip, uv, poetry, quotes
    r"|(?:╰─>|├─▶|╰─▶|`->) ?"
    r"|[│┃]"
    r")"
)
# Markdown's escapes, in a line whose backslashes are not those of a path
_PATH = re.compile(r"[A-Za-z]:\\|\\[A-Za-z0-9][\w.-]*\\[A-Za-z0-9]")
_MARKDOWN = re.compile(r"\\([_*\[\]`<>#~|.-])")
# blanks that text recognition puts into names
_BROKEN = re.compile(
    r"(?<=[a-z0-9])(?: _ ?|_ )(?=(?:ssm|conv1d|scan|cuda|fn|fwd|bwd|update|metal|version|interface|state|size|available|triton|type|core"
    r"|oflex)(?:\b|_| _))"
)
_BROKEN_ENDING = re.compile(r"(?<=[\w*])\. (?=(?:so|whl|cu|cpp|cpython)\b|_[a-z])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\u200b]")


def clean(line: str) -> str:
    """The words of the line; an empty string where nothing is left."""
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    if "m" in line and "[" in line:
        line = _LOST_ANSI.sub("", line)
    line = _CONTROL.sub("", line)
    if "&" in line and ";" in line:
        line = html.unescape(line)
    if "\\_" in line and not _PATH.search(line):
        line = _MARKDOWN.sub(r"\1", line)
    if " _" in line or "_ " in line or ". " in line:
        line = _BROKEN_ENDING.sub(".", _BROKEN.sub("_", line))
    while True:
        found = _PREFIX.match(line)
        if not found or not found.end():
            return line.rstrip()
        line = line[found.end() :]
