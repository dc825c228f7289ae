"""A line of a log without what terminals, installers, containers and chat quotes put around it."""

from __future__ import annotations

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
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\u200b]")


def clean(line: str) -> str:
    """The words of the line; an empty string where nothing is left."""
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    if "m" in line and "[" in line:
        line = _LOST_ANSI.sub("", line)
    line = _CONTROL.sub("", line)
    while True:
        found = _PREFIX.match(line)
        if not found or not found.end():
            return line.rstrip()
        line = line[found.end() :]
