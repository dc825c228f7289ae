"""Token files to rows of one length, with ``seq_idx`` so that documents in one row do not leak into each other.

Which rows a step gets is a pure function of (seed, step): a resumed run needs no more than the number of the step, and any
number of processes sees the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from anymamba.training.data.tokenfile import TokenFile

IGNORE = -100
"""The label of a position that is not trained (torch's cross-entropy leaves it out)."""


@dataclass(frozen=True)
class Batch:
    """input_ids, labels: (rows, length) int64; labels[t] is the token after input_ids[t], or IGNORE.

    seq_idx: (rows, length) int32, or None when every row lies within one document. counted: labels that are not IGNORE.
    """

    input_ids: Tensor
    labels: Tensor
    seq_idx: Tensor | None
    counted: int

    def part(self, first: int, last: int) -> Batch:
        """The rows first .. last - 1."""
        labels = self.labels[first:last]
        seq_idx = None if self.seq_idx is None else _or_none(self.seq_idx[first:last])
        return Batch(self.input_ids[first:last], labels, seq_idx, int((labels != IGNORE).sum()))

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        pin = device.type == "cuda"
        ids, labels, seq_idx = (
            None if tensor is None else (tensor.pin_memory() if pin else tensor).to(device, non_blocking=True)
            for tensor in (self.input_ids, self.labels, self.seq_idx)
        )
        assert ids is not None and labels is not None
        return Batch(ids, labels, seq_idx, self.counted)


class Rows(Protocol):
    """Rows of one length. ``count``: how many an epoch has."""

    count: int
    length: int

    def row(self, epoch: int, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(input_ids, labels, document of each token), each (length,) int64."""
        ...


class StreamRows:
    """Stage 1: the token file as one stream, cut into rows; every epoch cuts at another offset.

    Raises nothing: ``derive`` has made length at most the number of tokens less one.
    """

    def __init__(self, tokens: TokenFile, length: int, seed: int, shifted: bool = True) -> None:
        self.file, self.length, self.seed = tokens, length, seed
        total = len(tokens.tokens)
        # one row less than would fit leaves room for another offset in every epoch
        self.count = max(1, (total - length) // length if shifted else (total - 1) // length)
        self._slack = max(0, total - 1 - self.count * length) if shifted else 0

    def row(self, epoch: int, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        shift = int(np.random.default_rng([self.seed, epoch, 1]).integers(min(self._slack, self.length - 1) + 1))
        start = shift + index * self.length
        ids = np.asarray(self.file.tokens[start : start + self.length + 1], dtype=np.int64)
        positions = np.arange(start, start + self.length)
        documents = np.searchsorted(self.file.starts, positions, side="right")
        return ids[:-1], ids[1:], documents


class PackedRows:
    """Stage 2: whole examples, several to a row where they fit (best fit), none cut; the rest of a row is padding."""

    def __init__(self, tokens: TokenFile, length: int, pad: int) -> None:
        assert tokens.learn is not None
        self.file, self.length, self.pad = tokens, length, pad
        ends = np.append(tokens.starts[1:], len(tokens.tokens))
        self._spans = list(zip(tokens.starts.tolist(), ends.tolist()))
        self._rows = best_fit([end - start - 1 for start, end in self._spans], length)
        self.count = len(self._rows)

    def row(self, epoch: int, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        ids = np.full(self.length, self.pad, dtype=np.int64)
        labels = np.full(self.length, IGNORE, dtype=np.int64)
        documents = np.full(self.length, len(self._rows[index]), dtype=np.int64)
        at = 0
        assert self.file.learn is not None
        for number, example in enumerate(self._rows[index]):
            start, end = self._spans[example]
            size = end - start - 1
            tokens = np.asarray(self.file.tokens[start:end], dtype=np.int64)
            ids[at : at + size] = tokens[:-1]
            labels[at : at + size] = np.where(self.file.learn[start + 1 : end], tokens[1:], IGNORE)
            documents[at : at + size] = number
            at += size
        return ids, labels, documents


def best_fit(sizes: list[int], room: int) -> list[list[int]]:
    """Bins of at most ``room``, longest items first, each into the fullest bin that still takes it: indices into sizes.

    Items longer than ``room`` must not occur. Linear in the items times the distinct amounts of room left.
    """
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        best = min((free for free, open_bins in by_room.items() if free >= sizes[item] and open_bins), default=None)
        if best is None:
            bins.append([])
            where, best = len(bins) - 1, room
        else:
            where = by_room[best].pop()
            if not by_room[best]:
                del by_room[best]
        bins[where].append(item)
        by_room.setdefault(best - sizes[item], []).append(where)
    return bins


class Feeder:
    """The rows of every step: each epoch in another order, without an end."""

    def __init__(self, rows: Rows, rows_per_step: int, seed: int) -> None:
        self.rows, self.rows_per_step, self.seed = rows, rows_per_step, seed
        self._order: tuple[int, np.ndarray[Any, Any]] | None = None
        self._from = 0, 0

    def continue_at(self, step: int, row: int) -> None:
        """From this step on rows are counted from ``row``: the steps before had another number of them."""
        self._from = step, row

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The part of the step's rows that belongs to this process: (rows_per_step / world, length)."""
        share = self.rows_per_step // world
        return stack([self.rows.row(*place) for place in self.places(step)[rank * share : (rank + 1) * share]])

    def places(self, step: int) -> list[tuple[int, int]]:
        """(epoch, number in ``rows``) of each row of the step, over all processes."""
        since, row = self._from
        first = row + (step - since) * self.rows_per_step
        return [self._place(first + i) for i in range(self.rows_per_step)]

    def _place(self, number: int) -> tuple[int, int]:
        epoch, position = divmod(number, self.rows.count)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch, 0]).permutation(self.rows.count)
        return epoch, int(self._order[1][position])


def stack(rows: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> Batch:
    """Rows to a batch; the documents of a row are counted from 0, which keeps seq_idx small."""
    ids, labels, documents = (torch.from_numpy(np.stack(column)) for column in zip(*rows))
    seq_idx = (documents - documents[:, :1]).to(torch.int32)
    return Batch(ids, labels, _or_none(seq_idx), int((labels != IGNORE).sum()))


def _or_none(seq_idx: Tensor) -> Tensor | None:
    # without borders the kernels need no seq_idx, and the fused ones can be used
    return seq_idx if bool((seq_idx != seq_idx[:, :1]).any()) else None
