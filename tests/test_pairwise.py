from __future__ import annotations

import itertools

from tests.pairwise import covering


def test_every_possible_pair_occurs_in_few_rows() -> None:
    axes = {"a": [*"abcdefgh"], "b": [*"12345"], "c": [*"xyz"], "d": [*"+-"]}
    rows = covering(axes, lambda row: not (row["a"] == "a" and row["b"] == "1"))
    assert len(rows) <= 48 and rows == covering(axes, lambda row: not (row["a"] == "a" and row["b"] == "1"))
    for one, other in itertools.combinations(axes, 2):
        there = {(row[one], row[other]) for row in rows}
        assert there == set(itertools.product(axes[one], axes[other])) - {("a", "1")}
