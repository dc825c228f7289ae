"""The learning rate over the steps: warm-up, then cosine (Loshchilov and Hutter, 2017) or warm-up, stable, decay (Hu et al., 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEDULES = ("cosine", "wsd")


@dataclass(frozen=True)
class Schedule:
    """kind: "cosine" or "wsd". peak: the highest rate. warmup, steps, decay: in steps. floor: the last rate over the peak.

    decay counts only for "wsd": the number of steps at the end in which the rate falls in a straight line.
    """

    kind: str
    peak: float
    steps: int
    warmup: int
    decay: int
    floor: float = 0.1

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, ... steps - 1; beyond the end, the floor."""
        return self.peak * self.factor(step)

    def factor(self, step: int) -> float:
        """The rate over the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "wsd":
            fallen = _share(step + 1 - (self.steps - self.decay), self.decay)
            return 1.0 - (1.0 - self.floor) * fallen
        fallen = _share(step + 1 - self.warmup, self.steps - self.warmup)
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * fallen))


def _share(done: int, of: int) -> float:
    return min(1.0, max(0.0, done / of)) if of > 0 else float(done > 0)
