"""How far the reading of the data is: a line on a terminal, now and then one elsewhere."""

from __future__ import annotations

import time

from anymamba.language import _
from anymamba.training.show.report import Reporter, clock, count


class Reading:
    """One pass over the files. total: bytes of all of them as they lie on the disk, 0 where that is not known (data sets)."""

    def __init__(self, reporter: Reporter, doing: str, total: int) -> None:
        self.reporter, self.doing, self.total = reporter, doing, total
        self.tokens = 0
        self._before, self._source, self._size = 0, "", 0
        self._start = time.monotonic()

    def seen(self, source: str, size: int) -> None:
        """size: bytes read of this file; files come one after the other."""
        if source != self._source:
            self._before += self._size
            self._source = source
        self._size = size
        self._show()

    def made(self, tokens: int) -> None:
        """tokens: written so far."""
        self.tokens = tokens
        self._show()

    def finish(self) -> None:
        """The live line ends here."""
        self.reporter.end_line()

    def _show(self) -> None:
        parts = [self.doing]
        share = min(1.0, (self._before + self._size) / self.total) if self.total else 0.0
        if share:
            parts.append(_("{share:.0%} of {total}B").format(share=share, total=count(self.total)))
        if self.tokens:
            parts.append(_("{tokens} tokens").format(tokens=count(self.tokens)))
        seconds = time.monotonic() - self._start
        if 0.02 < share < 1 and seconds > 1:
            parts.append(_("left {left}").format(left=clock(seconds / share - seconds)))
        self.reporter.progress("  ".join(parts))
