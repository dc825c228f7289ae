"""Validations of a run: on how many rows, so that they take at most a twentieth of the time; the best one; when to stop for want
of a better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anymamba.language import _, ngettext
from anymamba.training.loop.evaluate import Score, evaluate
from anymamba.training.loop.pace import Pace
from anymamba.training.run.parts import Run

SHARE = 0.05
"""Of the run's time, unless --eval-every and --eval-tokens say otherwise."""

MOST_TOKENS = 200_000
"""Beyond this a validation gets no more certain that anyone would notice."""

FORWARD = 0.4
"""Seconds of a row's forward pass over those of its training, before a validation has measured them."""


class Validation:
    """best_loss, best_step: of the best validation so far. worse: validations since then."""

    def __init__(self, run: Run, state: dict[str, Any]) -> None:
        self.run = run
        self.rows = int(state.get("eval_rows", 0))
        self.best_loss = float(state.get("best_loss", float("inf")))
        self.best_step = int(state.get("best_step", 0))
        self.worse = int(state.get("worse", 0))
        self._row_seconds = 0.0

    def state(self) -> dict[str, Any]:
        """What trainer_state.json keeps."""
        best = {"best_loss": self.best_loss} if self.best_step else {}
        return {"eval_rows": self.rows, "best_step": self.best_step, "worse": self.worse, **best}

    @property
    def exhausted(self) -> bool:
        """--patience is at its end."""
        return 0 < self.run.config.patience <= self.worse

    def score(self, step: int, pace: Pace, steps_done: int, stop: Callable[[], bool]) -> Score | None:
        """Validates; None when there is nothing to validate on, or ``stop`` ended it. steps_done: in this part of the run."""
        run = self.run
        if run.held_out is None:
            return None
        rows = self._count(step, pace, steps_done)
        at_once = min(run.micro_batch, -(-rows // run.processes.world))
        score = evaluate(
            run.wrapped, run.held_out, at_once, run.processes, run.autocast, run.bytes_per_token, rows, stop
        )
        seconds = pace.pause("validation")
        if score is None:
            return None
        self.rows = rows
        self._row_seconds = seconds * run.processes.world / rows
        if score.loss < self.best_loss:
            self.best_loss, self.best_step, self.worse = score.loss, step, 0
        else:
            self.worse += 1
        return score

    def _count(self, step: int, pace: Pace, steps_done: int) -> int:
        """Rows of this validation, the same in every process."""
        run = self.run
        assert run.held_out is not None
        available, tokens = run.held_out.count, run.config.eval_tokens
        if tokens == 0:
            return available
        most = min(available, max(1, (tokens if tokens > 0 else MOST_TOKENS) // run.held_out.length))
        if tokens > 0:
            return most
        remaining = max(0, run.plan.steps - step)
        per_step = pace.step_seconds or pace.elapsed / max(1, steps_done)
        total = pace.limit or pace.elapsed + remaining * per_step
        times = 1 + round(remaining / run.plan.eval_every)
        budget = max(0.0, SHARE * total - pace.totals.get("validation", 0.0)) / times
        row_seconds = self._row_seconds or FORWARD * per_step * run.processes.world / run.plan.rows
        fits = int(budget / row_seconds * run.processes.world) if row_seconds else most
        if self.rows and fits >= 0.7 * self.rows:  # the same rows each time, so that scores can be compared
            fits = self.rows
        return run.processes.least(min(most, max(1, fits, run.processes.world)))


def score_line(step: int, score: Score, available: int) -> str:
    """``step 100, held out: loss 1.23, perplexity 3.4, 1.78 bits per byte (12 of 30 rows)``"""
    bits = (
        ""
        if score.bits_per_byte is None
        else _(", {bits_per_byte:.3f} bits per byte").format(bits_per_byte=score.bits_per_byte)
    )
    part = (
        ""
        if score.rows >= available
        else ngettext(" ({rows} of {available} row)", " ({rows} of {available} rows)", available).format(
            rows=score.rows, available=available
        )
    )
    return _("  step {step}, held out: loss {loss:.4f}, perplexity {perplexity:.2f}{bits}{part}").format(
        step=step, loss=score.loss, perplexity=score.perplexity, bits=bits, part=part
    )
