"""Time of a run: tokens a second of the steps alone, what is left, and how many steps fit into a limit."""

from __future__ import annotations

import time
from collections import deque

RESERVE = 0.03
"""Share of the time left that is kept for what takes longer than it was seen to take."""

OVERRUN = 0.03
"""Share of the limit by which the last steps may be late."""

COLD_STEPS = 3
"""Steps whose time is not believed where a probe has measured nothing: they compile kernels and tune matrix products."""

LOOK_EVERY = 6
"""Steps between two looks at the time left; every step where steps take long."""

LONG_STEP = 0.25
"""Seconds."""

RECENT = 12
"""Stretches between two synchronisations that tell the speed of now: other programs come and go."""


class Pace:
    """limit: seconds that the command may take, or 0. begin: when it began, by time.perf_counter; 0: now. estimate: seconds of a
    step as a probe measured them, 0 if none did."""

    def __init__(self, limit: float = 0.0, begin: float = 0.0, estimate: float = 0.0) -> None:
        self.limit, self.estimate = limit, estimate
        self._begin = self._mark = time.perf_counter()
        self._command_begin = begin or self._begin
        self._cold = 1 if estimate else COLD_STEPS
        self._new_tokens = self._new_steps = 0
        self._tokens = self._steps = 0
        self._busy = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self.costs: dict[str, float] = {}
        """What the last pause of each kind took, in seconds."""
        self.totals: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        """Seconds since the loop (this part of it) began."""
        return time.perf_counter() - self._begin

    @property
    def time_left(self) -> float:
        """Seconds of the limit."""
        return self.limit - (time.perf_counter() - self._command_begin)

    @property
    def out_of_time(self) -> bool:
        """Nothing more may begin but what ends the run: the last validation and checkpoint. The planned steps are not cut off for
        a little: they were fitted to the time, and the last ones bring the learning rate down."""
        return self.limit > 0 and self.time_left <= self.ending - OVERRUN * self.limit

    @property
    def ending(self) -> float:
        """Seconds of the last validation, sample and checkpoint, as far as they are known."""
        return sum(self.costs.values())

    def add(self, tokens: int) -> None:
        """One step of so many tokens was started (and on a CPU, done)."""
        self._new_tokens += tokens
        self._new_steps += 1

    def synchronised(self) -> None:
        """The device has done all steps added so far: their time since the last pause or synchronisation counts."""
        now = time.perf_counter()
        if self._cold > 0:
            self._cold -= self._new_steps
        elif self._new_steps:
            self._busy += now - self._mark
            self._tokens += self._new_tokens
            self._steps += self._new_steps
            self._recent.append((now - self._mark, self._new_steps))
        self._mark, self._new_tokens, self._new_steps = now, 0, 0

    def pause(self, kind: str) -> float:
        """What happened since the last synchronisation ("validation", "checkpoint", ...) was no training; its seconds."""
        now = time.perf_counter()
        seconds = now - self._mark
        self.totals[kind] = self.totals.get(kind, 0.0) + seconds
        if kind in ENDING:
            self.costs[kind] = seconds
        self._mark, self._new_tokens, self._new_steps = now, 0, 0
        return seconds

    @property
    def tokens_per_s(self) -> float:
        """0 until there is something to measure."""
        return self._tokens / self._busy if self._busy else 0.0

    @property
    def step_seconds(self) -> float:
        """Of a step, as of late; the probe's estimate until there is something to measure; 0 without either."""
        if not self._recent:
            return self.estimate
        return sum(seconds for seconds, _ in self._recent) / sum(steps for _, steps in self._recent)

    def left(self, steps: int) -> float | None:
        """Seconds that so many steps will take; None until there is something to measure."""
        return steps * self.step_seconds if self.step_seconds else None

    def looks(self, steps: int, alone: bool) -> bool:
        """Whether the time left is to be looked at after so many steps of this part.

        alone: several processes must look after the same steps, and their clocks differ.
        """
        if self.limit <= 0 or not self.step_seconds:
            return False
        return steps % LOOK_EVERY == 0 or (alone and self.step_seconds >= LONG_STEP)

    def steps_that_fit(self, pauses: float = 0.0) -> int:
        """Further steps that leave room for ``pauses`` seconds of other work. To the nearest: half a long step too much or too
        little is nearer to the limit than a whole one too little."""
        seconds = self.time_left * (1 - RESERVE) - pauses
        return max(0, round(seconds / self.step_seconds)) if self.step_seconds else 0


ENDING = ("validation", "sample", "checkpoint", "best")
"""Pauses that stand at the end of a run as well."""
