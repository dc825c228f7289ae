"""A run that goes on: as it was, to the last bit; or longer, or with other options, and then what that changes is said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext
from anymamba.training.loop.schedule import Schedule
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.derive import RunPlan

OPEN_END = 10**9
"""Steps of a run that only its time limit ends."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. row: how many rows it has read, over all processes; the next one is where it goes on. finished: it came
    to the end of its plan, its time or its patience. planned: its steps if no time limit had shortened them."""

    step: int = 0
    row: int = 0
    tokens: int = 0
    steps: int = 0
    planned: int = 0
    warmup: int = 0
    rows: int = 0
    lr: float = 0.0
    finished: bool = False

    @classmethod
    def of(cls, state: dict[str, Any], plan: RunPlan) -> Progress:
        """From trainer_state.json. plan: of a continued run, for checkpoints that do not name its rows and peak rate."""
        step = state["step"]
        rows = state.get("rows", plan.rows)
        return cls(
            step=step, row=state.get("row", step * rows), tokens=state.get("tokens", step * rows * plan.length), steps=state["steps"],
            planned=max(state.get("planned", 0), state["steps"]), warmup=state["warmup"], rows=rows,
            lr=state.get("lr", plan.lr),
            finished=state.get("finished", step >= state["steps"]),
        )  # fmt: skip


def schedule_of(config: TrainConfig, plan: RunPlan) -> Schedule:
    """The learning rate over the plan's steps."""
    decay = max(1, round(config.decay_share * plan.steps))
    return Schedule(config.schedule, plan.lr, plan.steps, plan.warmup, decay, config.floor)


def settle(plan: RunPlan, config: TrainConfig, before: TrainConfig, done: Progress, rows_per_pass: int) -> None:
    """Sets steps and warm-up of a continued run's plan, which ``derive`` made from ``config``.

    before: the configuration so far. rows_per_pass: rows of the data. Raises AnymambaError for --steps (or --epochs) that lie
    behind.
    """
    changed = {name for name, _, _, _ in config.changes(before)}
    plan.steps = _steps(plan, config, before, changed, done, rows_per_pass)
    if changed & {"steps", "epochs"} and plan.steps <= done.step:
        raise _behind(config, done)
    plan.warmup = min(config.warmup if "warmup" in changed and config.warmup else done.warmup, plan.steps)


def changes(plan: RunPlan, config: TrainConfig, before: TrainConfig, done: Progress, rows_per_pass: int) -> list[str]:
    """What differs from the run so far, a sentence each; nothing if it is the same. plan: settled."""
    if plan.steps <= done.step:
        return []
    old = RunPlan(length=plan.length, rows=done.rows, steps=done.steps, warmup=done.warmup, lr=done.lr)
    notes = [_flag_note(flag, then, now) for name, flag, then, now in config.changes(before) if name not in NAMED]
    if plan.rows != done.rows:
        notes.append(
            ngettext(
                "a step has {plan_rows} row instead of {done_rows}; the data goes on at row {row}",
                "a step has {plan_rows} rows instead of {done_rows}; the data goes on at row {row}",
                plan.rows,
            ).format(plan_rows=plan.rows, done_rows=done.rows, row=done.row + 1)
        )
    if plan.steps != done.steps:
        passes = [row / rows_per_pass for row in (done.row, done.row + (plan.steps - done.step) * plan.rows)]
        notes += [
            _("the schedule ends at step {plan_steps} instead of {done_steps}").format(
                plan_steps=plan.steps, done_steps=done.steps
            ),
            _(
                "the data goes on where it stood, each pass in an order of its own: from pass {first:.2f} to {last:.2f}"
            ).format(first=passes[0], last=passes[1]),
        ]
    rates = schedule_of(before, old).rate(done.step), schedule_of(config, plan).rate(done.step)
    if abs(rates[1] - rates[0]) > 0.01 * rates[0]:
        notes.append(
            _("the learning rate of the next step is {rate:.2g} instead of {before:.2g}").format(
                rate=rates[1], before=rates[0]
            )
        )
    return notes


NAMED = ("steps", "epochs", "batch_tokens")
"""Options whose effect has a sentence of its own."""


def _steps(
    plan: RunPlan, config: TrainConfig, before: TrainConfig, changed: set[str], done: Progress, rows_per_pass: int
) -> int:
    if "steps" in changed and config.steps:
        return config.steps
    if "epochs" in changed and config.epochs:
        return done.step + math.ceil((config.epochs * rows_per_pass - done.row) / plan.rows)
    if done.finished and config.max_minutes:
        return OPEN_END  # a further time limit is there to be used
    if done.finished and config.patience == before.patience:
        return done.step
    steps = done.planned if config.max_minutes or before.max_minutes else done.steps
    if plan.rows == done.rows or config.steps:
        return steps
    return done.step + math.ceil((steps - done.step) * done.rows / plan.rows)


def _behind(config: TrainConfig, done: Progress) -> AnymambaError:
    what = f"--epochs {config.epochs:g}" if config.epochs else f"--steps {config.steps}"
    return AnymambaError(
        "usage",
        ngettext(
            "{what}: the run has made {step} step already", "{what}: the run has made {step} steps already", done.step
        ).format(what=what, step=done.step),
        fix=_("ask for more, or go back to an older step folder with --resume PATH"),
    )


def _flag_note(flag: str, then: Any, now: Any) -> str:
    text = f"{flag}: {then or 'auto'} -> {now or 'auto'}"
    if flag == "--micro-batch":
        return text + _(" (the same sums, rounded in another order)")
    return text
