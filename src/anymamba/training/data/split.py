"""Which part of a corpus is held out: whole documents of every file that has enough of them, the end of every other file."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from anymamba.language import _, ngettext

FEWEST_DOCUMENTS = 20
"""With fewer documents than this to choose from, the end of a text is held out rather than whole documents."""

LARGEST_SHARE = 4
"""A document longer than one in so many of the tokens to choose from is too large to be held out whole, or to be left in whole."""

REPRESENTED = 8
"""A file with this many documents has at least one of them held out."""


@dataclass(frozen=True)
class Span:
    """Tokens start to end of the corpus, all of one document."""

    document: int
    start: int
    end: int
    held_out: bool


def split(starts: np.ndarray[Any, Any], ends: np.ndarray[Any, Any], files: list[int], share: float, seed: int) -> tuple[list[Span], str]:
    """(spans in their order, the sentence that says how). starts, ends: (documents,) token positions; files: which file each is of.

    Files with few documents are looked at together: twenty short files are twenty documents.
    """
    lengths = (ends - starts).tolist()
    whole, tails = _strata(lengths, files)
    random_order = random.Random(seed)
    held_out: set[int] = set()
    for group in whole:
        held_out |= _chosen(group, lengths, share, random_order)
    cuts = {}
    for documents in tails:
        target = int(sum(lengths[i] for i in documents) * share)
        for i in reversed(documents):
            if target <= 0:
                break
            cuts[i] = lengths[i] - min(target, lengths[i])
            target -= lengths[i]
    spans = []
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
        cut = start if i in held_out else start + cuts.get(i, lengths[i])
        spans += [Span(i, *part) for part in ((start, cut, False), (cut, end, True)) if part[0] < part[1]]
    return spans, _sentence(len(held_out), sum(len(documents) for group in whole for documents in group), len(tails) if cuts else 0, share)


def _strata(lengths: list[int], files: list[int]) -> tuple[list[list[list[int]]], list[list[int]]]:
    """(groups from which whole documents are taken, each a list of its files' documents; files whose end is taken)."""
    by_file: dict[int, list[int]] = {}
    for i, file in enumerate(files):
        by_file.setdefault(file, []).append(i)
    whole, pool = [], []
    for documents in by_file.values():
        sizes = [lengths[i] for i in documents]
        if len(documents) >= FEWEST_DOCUMENTS and max(sizes) <= sum(sizes) // LARGEST_SHARE:
            whole.append([documents])
        else:
            pool.append((max(sizes), sum(sizes), documents))
    pool.sort(key=lambda entry: entry[0])
    large = []
    total = sum(size for _, size, _ in pool)
    while pool and pool[-1][0] > total // LARGEST_SHARE:
        _, size, documents = pool.pop()
        total -= size
        large.append(documents)
    rest = [documents for _, _, documents in pool]
    tails: list[list[int]] = []
    if sum(map(len, rest)) >= FEWEST_DOCUMENTS:
        whole.append(rest)
        rest = []
    for documents in rest + large:
        # too few for a choice of their own, but part of a mixture in which whole documents are held out
        few = len(documents) >= REPRESENTED and max(lengths[i] for i in documents) <= sum(lengths[i] for i in documents) // LARGEST_SHARE
        if few and len(lengths) >= FEWEST_DOCUMENTS:
            whole.append([documents])
        else:
            tails.append(documents)
    return whole, tails


def _chosen(group: list[list[int]], lengths: list[int], share: float, random_order: random.Random) -> set[int]:
    """Whole documents of about this share of the group's tokens; the files take turns."""
    target = int(sum(lengths[i] for documents in group for i in documents) * share)
    if target <= 0:
        return set()
    queues = []
    for documents in group:
        queue = list(documents)
        random_order.shuffle(queue)
        queues.append(queue)
    random_order.shuffle(queues)
    must = {queue[0] for queue in queues if len(queue) >= REPRESENTED}
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    members, size = set(must), sum(lengths[i] for i in must)
    for i in turns:
        if size >= target:
            break
        if i not in members:
            members.add(i)
            size += lengths[i]
    return members


def _sentence(held: int, documents: int, tails: int, share: float) -> str:
    if held and tails:
        return ngettext(
            "{held} of {documents} documents and the last {share:.0%} of {tails} large file are held out",
            "{held} of {documents} documents and the last {share:.0%} of {tails} large files are held out",
            tails,
        ).format(held=held, documents=documents, share=share, tails=tails)
    if held:
        return ngettext(
            "{held} of {documents} documents is held out", "{held} of {documents} documents are held out", held
        ).format(held=held, documents=documents)
    if tails > 1:
        return _("the last {share:.0%} of each of {tails} files is held out").format(share=share, tails=tails)
    if tails:
        return _("the last {share:.0%} of the text is held out").format(share=share)
    return _("nothing is held out")
