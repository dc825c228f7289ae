"""Loss, perplexity and bits per byte on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from anymamba.training.packing import Batch, Rows, stack
from anymamba.training.parallel import Processes


@dataclass(frozen=True)
class Score:
    """loss: nats a token. perplexity: exp(loss). bits_per_byte: of the text, which does not depend on the tokenizer; None where
    not all of the text is predicted (stage 2). tokens: labels that were scored."""

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    rows: Rows,
    micro_batch: int,
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[Any]],
    bytes_per_token: float | None,
    limit: int = 0,
) -> Score | None:
    """Scores evenly spread rows, ``limit`` tokens in all (0: every row); None when there is nothing to score.

    Every process must call it. bytes_per_token: of the held-out text; None for stage 2.
    """
    count = rows.count if not limit else min(rows.count, max(1, limit // rows.length))
    chosen = [index * rows.count // count for index in range(count)]
    mine = chosen[processes.rank :: processes.world]
    # with shards every process must take part in every forward pass, if need be with a row that does not count
    passes = math.ceil(math.ceil(count / processes.world) / micro_batch)
    nats, tokens = 0.0, 0
    model.eval()
    for index in range(passes):
        part = mine[index * micro_batch : (index + 1) * micro_batch]
        batch: Batch = stack([rows.row(0, number) for number in part or chosen[:1]]).to(processes.device)
        with autocast():
            loss = model(batch.input_ids, targets=batch.labels, seq_idx=batch.seq_idx, normalizer=1.0).loss
        if part:
            nats += float(loss)
            tokens += batch.counted
    model.train()
    nats, total = processes.sum(nats, float(tokens))
    if not total:
        return None
    mean = nats / total
    bits = None if bytes_per_token is None else mean / math.log(2) / bytes_per_token
    return Score(mean, math.exp(min(mean, 700.0)), bits, int(total))
