"""Time of a run: tokens a second of the steps alone, what is left, and how many steps fit into a limit."""

from __future__ import annotations

import time

RESERVE = 0.04
"""Share of the time left that is kept for what takes longer than it was seen to take."""

COLD_STEPS = 3
"""Steps whose time is not believed: they compile kernels and tune matrix products."""

LOOK_EVERY = 6
"""Steps between two looks at the time left."""


class Pace:
    """limit: seconds from now, or 0. planned: the steps that the run would make without the limit; 0 before the first look."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.planned = 0
        self._begin = self._mark = time.perf_counter()
        self._cold = COLD_STEPS
        self._new_tokens = self._new_steps = 0
        self._tokens = self._steps = 0
        self._busy = 0.0
        self._longest_pause = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the run (this part of it) began."""
        return time.perf_counter() - self._begin

    @property
    def out_of_time(self) -> bool:
        return 0 < self.limit <= self.elapsed

    def add(self, tokens: int) -> None:
        """One step of so many tokens was started (and on a CPU, done)."""
        self._new_tokens += tokens
        self._new_steps += 1

    def synchronised(self) -> None:
        """The device has done all steps added so far: their time since the last pause or synchronisation counts."""
        now = time.perf_counter()
        if self._cold > 0:
            self._cold -= self._new_steps
        else:
            self._busy += now - self._mark
            self._tokens += self._new_tokens
            self._steps += self._new_steps
        self._mark, self._new_tokens, self._new_steps = now, 0, 0

    def pause(self) -> None:
        """What happened since the last synchronisation (a validation, a checkpoint, a profiled step) was no training."""
        now = time.perf_counter()
        self._longest_pause = max(self._longest_pause, now - self._mark)
        self._mark, self._new_tokens, self._new_steps = now, 0, 0

    @property
    def tokens_per_s(self) -> float:
        """0 until there is something to measure."""
        return self._tokens / self._busy if self._busy else 0.0

    def left(self, steps: int) -> float | None:
        """Seconds that so many steps will take; None until there is something to measure."""
        return steps * self._busy / self._steps if self._steps else None

    def looks(self, steps: int) -> bool:
        """Whether the time left is to be looked at after so many steps of this part."""
        return self.limit > 0 and self._steps > 0 and steps % LOOK_EVERY == 0

    def steps_that_fit(self) -> int:
        """Further steps that leave room for the last validation and checkpoint."""
        per_step = self._busy / self._steps
        return max(0, int(((self.limit - self.elapsed) * (1 - RESERVE) - 2 * self._longest_pause) / per_step))
