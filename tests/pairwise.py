"""A small part of a grid in which every pair of values of two axes occurs: most faults need no more than two."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence

Row = dict[str, str]


def covering(axes: Mapping[str, Sequence[str]], possible: Callable[[Row], bool]) -> list[Row]:
    """Rows, a value for each axis, in which every pair occurs that occurs in any possible row. The same rows every time."""
    names = list(axes)
    rows = [dict(zip(names, values)) for values in itertools.product(*axes.values())]
    rows = [row for row in rows if possible(row)]
    random.Random(0).shuffle(rows)
    by_pair: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        for pair in _pairs(row):
            by_pair.setdefault(pair, []).append(number)
    missing, chosen = set(by_pair), []
    for pair in sorted(by_pair, key=lambda pair: len(by_pair[pair])):  # the rarest first: others come along with them
        if pair in missing:
            # of the rows with this pair the one with the most that are missing
            best = max(by_pair[pair][:200], key=lambda number: len(missing.intersection(_pairs(rows[number]))))
            chosen.append(rows[best])
            missing.difference_update(_pairs(rows[best]))
    return chosen


def _pairs(row: Row) -> list[tuple[str, ...]]:
    return [(*one, *other) for one, other in itertools.combinations(row.items(), 2)]
