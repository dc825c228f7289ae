"""The grids of `bench --matrix`; times of a card need one."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import pytest
import torch

from anymamba.bench import matrix, matrix_cpu, peers, timing
from anymamba.cli import bench, main
from anymamba.errors import AnymambaError


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


def test_cells_of_a_processor_cover_layouts_dtypes_and_ops() -> None:
    cells = list(matrix_cpu.cells())
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.op for cell in cells} == {
        "selective_scan_fn", "causal_conv1d_fn", "mamba_chunk_scan_combined", "rms_norm_fn", "layer_norm_fn", "rmsnorm_fn",
        "selective_state_update", "causal_conv1d_update",
    }  # fmt: skip
    for word in ("channels contiguous", "length contiguous", "fp32", "bf16", "forward and backward", " N64 ", " z "):
        assert any(word in cell.name for cell in cells), word


def test_rows_of_a_processor_name_the_fastest_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**arguments: Any) -> None:
        time.sleep(0.02)

    def broken(**arguments: Any) -> None:
        raise ValueError("no such size")

    monkeypatch.setattr(peers, "of_op", lambda op, device: {"a": slow, "b": broken, "c": "not installed"})
    monkeypatch.setattr(matrix_cpu, "EFFORT", timing.Effort(seconds=0.0, least=2, most=2))
    chosen = [cell for cell in matrix_cpu.cells() if cell.name.startswith("rms_norm_fn B1 L1 ") and not cell.backward]
    rows = matrix_cpu.measure(chosen, None, lambda name: None)
    assert len(rows) == 2 and rows[0]["ratio"] <= rows[1]["ratio"]
    for row in rows:
        assert row["left_out"] == {"b": "ValueError: no such size", "c": "not installed"}
        assert row["fastest"] in ("torch", "a") and row["ratio"] == min(row["torch"], row["a"]) / row["ours"]
    document = matrix_cpu.document(rows)
    assert document["cells"] == 2 and document["machine"]["cpu"] and json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("op", ["selective_scan_fn", "causal_conv1d_fn", "mamba_chunk_scan_combined", "selective_state_update"])
def test_every_contender_computes_a_small_cell_of_a_processor(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_cpu, "EFFORT", timing.Effort(seconds=0.0, least=1, most=1))
    cells = [cell for cell in matrix_cpu.cells() if cell.op == op and cell.dtype == torch.float32]
    cell = min(cells, key=lambda cell: cell.sizes["batch"] * cell.sizes.get("length", 1) * cell.sizes.get("dim", 64))
    (row,) = matrix_cpu.measure([cell], None, lambda name: None)
    assert row["ours"] > 0 and row["torch"] > 0 and (row.get("transformers", 0) > 0 or "transformers" in row["left_out"])


def test_a_device_without_other_packages_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = argparse.Namespace(only=None, list=False, backend=None, json=False)
    with pytest.raises(AnymambaError, match="no other packages"):
        bench._matrix(arguments, torch.device("mps"))
    assert main(["bench", "--device", "cpu", "--matrix", "--list", "--only", "rms_norm_fn B1 L1 *"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_every_kind_of_cell_has_its_share_of_the_time() -> None:
    now = [0.0]
    order = []
    for cell in matrix.in_turns(list(matrix.cells()), lambda: now[0]):
        order.append(matrix.kind(cell))
        now[0] += 60.0 if "scan_combined" in cell.op else 1.0
    assert len(order) == len(list(matrix.cells()))
    assert len(set(order[:6])) == 6 == len(set(order))
    assert order[:60].count("mamba_chunk_scan_combined") == 1  # which takes a minute each
