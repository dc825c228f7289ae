"""What the output of a command tells a person: how far a build is, that it fails, and the line that says why."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from anymamba.installer.step import InstallStep
from anymamba.language import _, ngettext

# seconds between two lines of progress while nothing new is known
HEARTBEAT = 30.0
# ninja tells a failure at once, but waits for the compilers that run beside it, which may take many minutes; seconds until they are ended
PATIENCE = 3.0
_COMPILED = re.compile(r"^\s*\[(\d+)/(\d+)\]")
_SOURCE = re.compile(r"\s-c\s+['\"]?(?:\S*[/\\])?([\w.-]+\.(?:cu|cpp|cc|hip|c))\b")
_FAILED = re.compile(r"^\s*FAILED: ")
_COMPILER_ERROR = re.compile(r"\berror:|fatal error|fatal\s*:|error C\d{4}|Killed\b|No space left on device")
_ANY_ERROR = re.compile(r"^\s*(ERROR: |\w*(Error|Exception): )")


class Progress:
    """Turns ninja's [3/10] into lines for a person. stop: called once when a file has failed to compile."""

    def __init__(self, tell: Callable[[str], None], step: InstallStep, stop: Callable[[], None]) -> None:
        self.tell, self.step, self.stop = tell, step, stop
        self.started = time.monotonic()
        self.done, self.total, self.source, self.failed = 0, step.files, "", False
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def see(self, line: str) -> None:
        if self.step.kind != "build" or self.failed:
            return
        match = _COMPILED.match(line)
        if match and int(match.group(1)) > self.done:
            self.done, self.total = int(match.group(1)), int(match.group(2))
            source = _SOURCE.search(line)
            self.source = source.group(1) if source else ""
            self._say()
        elif _FAILED.match(line):
            self.failed = True
            self.tell(_("  a file does not compile; the others are stopped"))
            timer = threading.Timer(PATIENCE, self.stop)
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            self._say()

    def _say(self) -> None:
        text = _("  {elapsed} elapsed").format(elapsed=clock(time.monotonic() - self.started))
        if self.step.kind == "build":
            text = ngettext("  {done} of {total} file", "  {done} of {total} files", self.total).format(
                done=self.done, total=self.total
            )
            text += f" ({self.source})" if self.source else ""
            text += _(", {elapsed} elapsed").format(elapsed=clock(time.monotonic() - self.started))
            if time.monotonic() - self.started > self.step.minutes[1] * 60:
                text += _(", longer than expected ({least:.0f} to {most:.0f} minutes): a slow or busy machine").format(
                    least=self.step.minutes[0], most=self.step.minutes[1]
                )
            else:
                text += _(", expected {least:.0f} to {most:.0f} minutes").format(
                    least=self.step.minutes[0], most=self.step.minutes[1]
                )
        self.tell(text)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def first_error(log: Path, start: int) -> str | None:
    """The first line after the byte start that names an error, a compiler's before others; else the last line.

    Wrappers only repeat an error further down.
    """
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()[1:]
    for pattern in (_COMPILER_ERROR, _ANY_ERROR):
        for line in lines:
            if pattern.search(line) and "subprocess-exited-with-error" not in line:
                return line.strip()
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
