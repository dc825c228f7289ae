"""A loss or gradient that is no longer finite: in which step, and which rows of the data made it so.

Only the loop looks: the ops let NaN and infinity through, as torch's do. Where there is one process on a CPU each step is looked at
before the weights change, and its rows are then tried one by one; elsewhere an accelerator would wait for every step, so what is known
later is the step, and all of its rows are named.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.training.data.rows import Batch
from anymamba.training.run.parts import Run

_MOST_ROWS = 8
_EXCERPT = 60
"""Rows, and characters of the first one, that an error shows."""


def refuse(run: Run, step: int, loss: float, norm: float, rate: float, batch: Batch | None = None) -> None:
    """Raises AnymambaError where the loss or the norm of the gradient of step (counted from 1) is not finite. batch: its rows, while the
    weights are still those that it was computed with."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    if math.isfinite(loss):
        what = _("the gradient of step {step} has the norm {norm}, its loss is {loss:.4g}").format(step=step, norm=norm, loss=loss)
    else:
        what = _("the loss of step {step} is {loss}").format(step=step, loss=loss)
    raise diverged(what, f"{_rows(run, step, batch)}; " + _("the learning rate was {rate:.2g}").format(rate=rate))


def diverged(what: str, why: str) -> AnymambaError:
    return AnymambaError(
        "diverged",
        what,
        why=why,
        fix=_(
            "lower --lr, or raise --warmup; earlier checkpoints are whole: --resume auto --lr ... goes on from "
            "the newest"
        ),
    )


def _rows(run: Run, step: int, batch: Batch | None) -> str:
    numbers = [index + 1 for __, index in run.feeder.places(step - 1)]
    of = run.feeder.rows.count
    guilty = list(range(len(numbers))) if batch is None else _guilty(run, batch)
    if batch is None or not guilty:
        return _("it read rows {rows} of {of}").format(rows=_listed(numbers), of=of)
    if len(guilty) == len(numbers):
        return _("every row of it ({rows} of {of})").format(rows=_listed(numbers), of=of)
    text = " ".join(run.tokenizer.decode(batch.input_ids[guilty[0]].tolist()).split())[:_EXCERPT]
    return _("it comes from row {rows} of {of} alone, which begins with {text}").format(
        rows=_listed([numbers[row] for row in guilty]), of=of, text=repr(text)
    )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:_MOST_ROWS])) + (", ..." if len(numbers) > _MOST_ROWS else "")


def _guilty(run: Run, batch: Batch) -> list[int]:
    """Rows of the batch of which, alone, the loss or a gradient is not finite."""
    suspects = []
    for row in range(batch.input_ids.shape[0]):
        run.model.zero_grad(set_to_none=True)
        part = batch.part(row, row + 1)
        with run.autocast():
            loss = run.model(part.input_ids, targets=part.labels, seq_idx=part.seq_idx, normalizer=max(float(part.counted), 1.0)).loss
        assert isinstance(loss, Tensor)
        loss.backward()
        gradients = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *gradients)):
            suspects.append(row)
    run.model.zero_grad(set_to_none=True)
    return suspects
