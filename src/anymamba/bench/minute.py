"""The minute of ``--quick``: which cases still fit into it."""

from __future__ import annotations

import time

from anymamba.bench.cases.case import Case


class Minute:
    """A case begins only when it will probably end within ``seconds`` of the first; the rest of the minute is the program's start."""

    def __init__(self, seconds: float = 54.0) -> None:
        self.seconds, self.start, self.planned = seconds, time.perf_counter(), 0.0

    def has_room(self, case: Case) -> bool:
        """Asked before each case; a machine that took twice the time for those before is taken to need it for this one, too."""
        spent = time.perf_counter() - self.start
        pace = spent / self.planned if self.planned else 1.0
        if spent + case.seconds * pace > self.seconds:
            return False
        self.planned += case.seconds
        return True
