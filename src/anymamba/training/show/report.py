"""What a run says while it runs: one live line on a terminal, a line now and then elsewhere, trackers if asked; all on stderr."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size

from anymamba.language import _
from anymamba.training.machine import memory
from anymamba.training.show.chart import Series, chart

QUIET_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class Reporter:
    """Speaks for the main process; ``quiet`` for the others."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self.live = not quiet and self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._line = ""
        self._last = float("-inf")

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet and text:
            self._clear()
            print(text, file=self.stream, flush=True)
            self._draw()

    def table(self, rows: list[tuple[str, str, str]]) -> None:
        """name, value, why: aligned."""
        names = max(cell_len(name) for name, _, _ in rows)
        values = max(min(34, cell_len(value)) for _, value, _ in rows)
        for name, value, why in rows:
            wide = value if cell_len(value) > values else set_cell_size(value, values)
            self.note(f"  {set_cell_size(name, names)}  {wide}  {why}".rstrip())

    def progress(self, text: str, last: bool = False) -> None:
        """Replaces the live line; without a terminal, a line every QUIET_SECONDS and the last one."""
        if self.quiet:
            return
        now = time.monotonic()
        if self.live:
            if last or now - self._last >= 0.1:
                self._last = now
                self._line = text
                self._draw()
        elif last or now - self._last >= QUIET_SECONDS:
            self._last = now
            print(text, file=self.stream, flush=True)

    def end_line(self) -> None:
        """What comes next stands below the live line."""
        if self.live and self._line:
            print(file=self.stream, flush=True)
        self._line = ""

    def curve(self, training: Series, validation: Series, unit: str) -> None:
        """The loss curve over the steps."""
        plain = (self.stream.encoding or "").lower().replace("-", "") != "utf8"
        width = min(100, shutil.get_terminal_size().columns)
        series: list[tuple[str, Series]] = [(_("training"), training)]
        if validation:
            series.append((_("held out"), validation))
        drawn = chart(series, width=width, ascii_only=plain)
        if drawn:
            self.note(unit)
            self.note(drawn)

    def _clear(self) -> None:
        if self.live and self._line:
            self.stream.write("\r\x1b[K")

    def _draw(self) -> None:
        if self.live and self._line:
            columns = shutil.get_terminal_size().columns
            text = self._line if cell_len(self._line) < columns else set_cell_size(self._line, columns - 1)
            self.stream.write("\r\x1b[K" + text)
            self.stream.flush()


def progress_line(row: dict[str, Any], steps: int, seconds_left: float | None) -> str:
    """``step 12/100  loss 2.345  8.1k tok/s  matmul 61%  mem 1.2 GiB  left 3:20``"""
    parts = [
        _("step {step}/{steps}").format(step=row["step"], steps=steps),
        _("loss {loss:.4f}").format(loss=row["loss"]),
    ]
    if row["tokens_per_s"]:  # there is nothing to tell before the kernels are compiled
        parts.append(_("{tokens_per_s} tok/s").format(tokens_per_s=count(row["tokens_per_s"])))
    if row.get("matmul_share") is not None:
        parts.append(_("matmul {matmul_share:.0%}").format(matmul_share=row["matmul_share"]))
    if row.get("memory"):
        parts.append(_("mem {memory}").format(memory=memory.text(row["memory"])))
    if seconds_left is not None:
        parts.append(_("left {left}").format(left=clock(seconds_left)))
    return "  ".join(parts)


def count(number: float) -> str:
    """``950``, ``8.1k``, ``130.0M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def clock(seconds: float) -> str:
    """``3:20``, ``1:02:03``."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
