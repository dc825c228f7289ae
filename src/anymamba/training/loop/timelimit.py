"""--max-minutes while a run goes on: how many steps fit, and what may take time beside them."""

from __future__ import annotations

import math

from anymamba.training.loop.pace import Pace
from anymamba.training.loop.validation import SHARE
from anymamba.training.machine import fit
from anymamba.training.run.derive import set_intervals
from anymamba.training.run.parts import Run

DISK_SPEED = 300e6
"""Bytes a second at which checkpoints are expected to be written, until the first has been."""

SAMPLE_SHARE = 0.01
"""Of the time, for one sample."""


class TimeLimit:
    """Of one run, or of none: then everything is allowed. step: where the run stands."""

    def __init__(self, run: Run, pace: Pace, step: int) -> None:
        self.run, self.pace = run, pace
        if pace.limit:
            self._expect_pauses(step)

    def _expect_pauses(self, step: int) -> None:
        """What validations, samples and checkpoints will take, until the first of each has been measured."""
        plan, limit, costs = self.run.plan, self.pace.limit, self.pace.costs
        trained = fit.trained_parameters(self.run.model)
        if self.run.held_out is not None:
            costs["validation"] = SHARE * limit / (1 + (plan.steps - step) // plan.eval_every)
            costs["best"] = 4 * trained / DISK_SPEED
        if plan.sample_every > 0:
            costs["sample"] = self.sample_seconds
        costs["checkpoint"] = 12 * trained / DISK_SPEED

    @property
    def sample_seconds(self) -> float:
        """Time for a sample."""
        return max(0.5, SAMPLE_SHARE * self.pace.limit) if self.pace.limit else math.inf

    def may_save(self) -> bool:
        """Checkpoints on the way take at most a twentieth of a limited run, unless --save-every says when they are due."""
        pace = self.pace
        if not pace.limit or self.run.config.save_every:
            return True
        spent = pace.totals.get("checkpoint", 0.0) + pace.costs["checkpoint"]
        return not self.run.processes.any(spent > SHARE * pace.limit)

    def fit(self, step: int) -> bool:
        """Sets the number of steps to what the time allows; whether it changed. The learning rate comes down in full all the same."""
        run, plan = self.run, self.run.plan
        fits = run.processes.least(step + self.pace.steps_that_fit(self._pauses_ahead(step)))
        steps = max(step, min(run.done.planned, fits))
        if steps == plan.steps:
            return False
        first, plan.steps = plan.steps >= run.done.planned and not run.step_seconds, steps
        if step < plan.warmup:
            plan.warmup = min(plan.warmup, max(1, steps // 10))
        if first:
            set_intervals(plan, run.config)
        return True

    def _pauses_ahead(self, step: int) -> float:
        """Seconds until the end that will not be training."""
        plan, costs, remaining = self.run.plan, self.pace.costs, self.run.plan.steps - step
        validations = 1 + remaining // plan.eval_every
        samples = 1 + remaining // plan.sample_every if plan.sample_every > 0 else 0
        saves = 1 + remaining // plan.save_every
        save = costs.get("checkpoint", 0.0)
        if save and not self.run.config.save_every:
            saves = min(saves, 1 + int(max(0.0, SHARE * self.pace.limit - self.pace.totals.get("checkpoint", 0.0)) / save))
        scored = costs.get("validation", 0.0) + costs.get("best", 0.0)
        return validations * scored + samples * costs.get("sample", 0.0) + saves * save
