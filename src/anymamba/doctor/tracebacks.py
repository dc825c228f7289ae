"""What stands around an exception in a log: which file raised it, which function was called, whether the traceback is whole."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.patterns import compiled

_FRAME = re.compile(
    r"^(?:\S* ?)?(?:File \"(?P<python>[^\"\n]+)\", line \d+|File (?P<ipython>[^\s:]+):\d+|(?P<old>/\S+\.py) in \w+\()", re.M
)
_CALL = re.compile(r"([A-Za-z_][\w.]*)\s*\(")
_LAST_LINE = re.compile(
    r"^(?:\[?rank\d*\]?:? ?|E {2,})?(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit|Warning|NotFound|Unavailable|OutOfResources|Timeout)"
    r"(?:: |:$|$|\()",
    re.M,
)
_START = re.compile(r"Traceback \(most recent call last\)")


def frame_before(log: Log, offset: int, lines: int = 12) -> Optional[str]:
    """The file of the innermost frame above this place."""
    path = None
    for found in _FRAME.finditer(log.around(offset, offset, before=lines, after=0)):
        path = found.group("python") or found.group("ipython") or found.group("old")
    return path


def call_before(log: Log, offset: int) -> Optional[str]:
    """The name that was called in the source line above an exception, as in ``'NoneType' object is not callable``."""
    name = None
    lines = log.around(offset, offset, before=10, after=0).rstrip("\n").split("\n")[:-1]
    marked = [line for line in lines if line.startswith("-->")]
    for line in marked[-1:] or lines:
        if _FRAME.match(line):
            name = None
            continue
        if line.startswith(("^", "~")):
            continue
        found = _CALL.search(re.sub(r"^(?:-+> ?)?\d+ |^return |^\[rank\d+\]: *", "", line))
        if found and name is None:
            name = found.group(1).split(".")[-1]
    return name


def cut_traceback(log: Log) -> Optional[int]:
    """Where a traceback begins that the log ends, or goes on, without its last line; None where all of them are whole."""
    starts = [found.start() for found in _START.finditer(log.text)]
    frames = list(_FRAME.finditer(log.text))
    if not frames:
        return starts[-1] if starts and not _LAST_LINE.search(log.text, starts[-1]) else None
    if _LAST_LINE.search(log.text, frames[-1].end()):
        return None
    return starts[-1] if starts else frames[0].start()


def near(log: Log, offset: int, pattern: str, before: int = 12, after: int = 6) -> bool:
    """Whether the pattern occurs in the lines around this place."""
    return compiled(pattern).search(log.around(offset, offset, before=before, after=after)) is not None
