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
from anymamba.language import say
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
        what = say(
            f"the gradient of step {step} has the norm {norm}, its loss is {loss:.4g}",
            f"第 {step} 步梯度的范数为 {norm}，损失为 {loss:.4g}",
        )
    else:
        what = say(f"the loss of step {step} is {loss}", f"第 {step} 步的损失为 {loss}")
    raise diverged(what, f"{_rows(run, step, batch)}; " + say(f"the learning rate was {rate:.2g}", f"学习率为 {rate:.2g}"))


def diverged(what: str, why: str) -> AnymambaError:
    return AnymambaError(
        "diverged",
        what,
        why=why,
        fix=say(
            "lower --lr, or raise --warmup; earlier checkpoints are whole: --resume auto --lr ... goes on from the newest",
            "请降低 --lr 或增大 --warmup；此前的检查点完好：可用 --resume auto --lr ... 从最新的继续",
        ),
    )


def _rows(run: Run, step: int, batch: Batch | None) -> str:
    numbers = [index + 1 for _, index in run.feeder.places(step - 1)]
    of = run.feeder.rows.count
    guilty = list(range(len(numbers))) if batch is None else _guilty(run, batch)
    if batch is None or len(guilty) in (0, len(numbers)):
        every = say("every row of it", "其每一行") if batch is not None and guilty else say("it read rows", "它读取了行")
        return f"{every} ({_listed(numbers)}{say(f' of {of}', f'，共 {of} 行')})"
    text = " ".join(run.tokenizer.decode(batch.input_ids[guilty[0]].tolist()).split())[:_EXCERPT]
    return say(
        f"it comes from row {_listed([numbers[row] for row in guilty])} of {of} alone, which begins with {text!r}",
        f"它仅来自第 {_listed([numbers[row] for row in guilty])} 行（共 {of} 行），该行开头为 {text!r}",
    )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:_MOST_ROWS])) + (", ..." if len(numbers) > _MOST_ROWS else "")


def _guilty(run: Run, batch: Batch) -> list[int]:
    """Rows of the batch of which, alone, the loss or a gradient is not finite."""
    found = []
    for row in range(batch.input_ids.shape[0]):
        run.model.zero_grad(set_to_none=True)
        part = batch.part(row, row + 1)
        with run.autocast():
            loss = run.model(part.input_ids, targets=part.labels, seq_idx=part.seq_idx, normalizer=max(float(part.counted), 1.0)).loss
        assert isinstance(loss, Tensor)
        loss.backward()
        gradients = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *gradients)):
            found.append(row)
    run.model.zero_grad(set_to_none=True)
    return found
