"""Loss, perplexity and bits per byte on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from anymamba.training.data.rows import Batch, Rows, stack
from anymamba.training.machine.parallel import Processes


@dataclass(frozen=True)
class Score:
    """loss: nats a token. perplexity: exp(loss). bits_per_byte: of the text, which does not depend on the tokenizer; None where
    not all of the text is predicted (stage 2). tokens: labels that were scored, in so many of the held-out rows."""

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    rows: int = 0


def spread(count: int) -> list[int]:
    """0 .. count - 1 in an order whose every beginning is spread evenly over the whole: the fewer rows are scored, the more
    their choice matters. (The numbers with their bits read backwards: van der Corput's sequence.)"""
    bits = max(1, (count - 1).bit_length())
    backwards = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [number for number in backwards if number < count]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    rows: Rows,
    micro_batch: int,
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[Any]],
    bytes_per_token: float | None,
    count: int,
    stop: Callable[[], bool] = lambda: False,
) -> Score | None:
    """Scores ``count`` evenly spread rows; None when there is nothing to score, or ``stop`` ended it early.

    Every process must call it. bytes_per_token: of the held-out text; None for stage 2. stop: asked between two micro-batches;
    its answer must be the same in all processes.
    """
    count = min(rows.count, max(1, count))
    indices = spread(rows.count)[:count]
    own_indices = indices[processes.rank :: processes.world]
    # with shards every process must take part in every forward pass, if need be with a row that does not count
    passes = math.ceil(math.ceil(count / processes.world) / micro_batch)
    nats, tokens = 0.0, 0
    model.eval()
    try:
        for index in range(passes):
            if stop():
                return None
            part = own_indices[index * micro_batch : (index + 1) * micro_batch]
            batch: Batch = stack([rows.row(0, number) for number in part or indices[:1]]).to(processes.device)
            with autocast():
                loss = model(batch.input_ids, targets=batch.labels, seq_idx=batch.seq_idx, normalizer=1.0).loss
            if part:
                nats += float(loss)
                tokens += batch.counted
    finally:
        model.train()
    nats, total = processes.sum(nats, float(tokens))
    if not total:
        return None
    mean = nats / total
    bits = None if bytes_per_token is None else mean / math.log(2) / bytes_per_token
    return Score(mean, math.exp(min(mean, 700.0)), bits, int(total), count)
