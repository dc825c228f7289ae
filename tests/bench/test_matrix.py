"""The grid of `bench --matrix`; its times need a card."""

from __future__ import annotations

import pytest
import torch

from anymamba.bench import matrix
from anymamba.cli import main


def test_cells_have_names_of_their_own_and_cover_every_op() -> None:
    cells = list(matrix.cells())
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.op for cell in cells} == {"selective_scan_fn", "causal_conv1d_fn", "mamba_chunk_scan_combined"}


@pytest.mark.parametrize("op", ["selective_scan_fn", "causal_conv1d_fn", "mamba_chunk_scan_combined"])
def test_smallest_cell_is_a_legal_call(op: str) -> None:
    from anymamba import ops

    cell = next(cell for cell in matrix.cells() if cell.op == op and cell.host)
    out = getattr(ops, op)(**cell.build(torch.device("cpu")), **dict(cell.options), backend="torch")
    assert out.isfinite().all()


def test_a_processor_has_nothing_to_compare_with() -> None:
    assert main(["bench", "--device", "cpu", "--matrix"]) == 2
