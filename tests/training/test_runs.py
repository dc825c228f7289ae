"""``anymamba.train`` in Python and in a notebook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.training.runs import tiny_model

import anymamba
from anymamba.errors import AnymambaError
from anymamba.training import Run
from anymamba.training.show.notebook import in_notebook

TEXT = "a line of text that repeats itself.\n" * 400
SMALL = {"length": 64, "batch_tokens": 256, "lr": 3e-3, "sample_every": -1, "eval_tokens": 512, "precision": "fp32"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    return path


def test_train_returns_a_run_with_model_and_curve(text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    start = tiny_model(tmp_path / "start")
    run = anymamba.train(text, out=tmp_path / "run", start=start, steps=6, progress=False, **SMALL)
    assert capfd.readouterr() == ("", "")
    assert [step for step, _ in run.curve.training] == list(range(1, 7))
    assert run.curve.training[-1][1] < run.curve.training[0][1]
    assert run.curve.held_out and "polyline" in run.curve.svg()
    assert run.result is not None and run.result.steps == 6 and "6 steps" in repr(run)
    assert isinstance(run.model.generate("a line", 5), str)
    opened = Run(tmp_path / "run")
    assert opened.model.generate("a line", 5) == run.model.generate("a line", 5)
    assert opened.curve.training == run.curve.training


def test_a_misspelt_option_names_the_nearest(text: Path) -> None:
    with pytest.raises(AnymambaError, match="batch_token'") as caught:
        anymamba.train(text, batch_token=4)
    assert "batch_tokens" in str(caught.value.fix)


def test_progress_is_on_stderr_and_nothing_on_stdout(text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not in_notebook()
    anymamba.train([text], out=tmp_path / "run", start=tiny_model(tmp_path / "start"), steps=2, **SMALL)
    out, err = capfd.readouterr()
    assert out == "" and "step 2/2" in err


def test_a_notebook_shows_progress_table_and_curve_without_escapes(text: Path, tmp_path: Path) -> None:
    start = tiny_model(tmp_path / "start")
    options = {**SMALL, "steps": 4, "start": str(start), "out": str(tmp_path / "run")}
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(f"import anymamba\nrun = anymamba.train({str(text)!r}, **{options!r})"),
            nbformat.v4.new_code_cell("run.curve"),
            nbformat.v4.new_code_cell("for piece in run.model.stream('a line', 6, temperature=1.0, seed=2): print(piece, end='')"),
        ]
    )
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    training, curve, stream = (cell.outputs for cell in notebook.cells)
    everything = json.dumps([training, curve, stream])
    assert "\\u001b" not in everything and "\\r" not in everything
    data = [output.data for output in training if output.output_type == "display_data"]
    assert any("step 4/4" in part.get("text/plain", "") for part in data), "the line of progress"
    assert any("<table>" in part.get("text/html", "") for part in data), "the table of the plan"
    assert any("<svg" in part.get("image/svg+xml", "") for part in data), "the loss curve"
    assert "<svg" in curve[0].data["image/svg+xml"]
    assert stream[0].output_type == "stream" and stream[0].name == "stdout"
