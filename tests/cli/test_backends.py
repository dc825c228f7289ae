"""The table of backends: every name whole, in every terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anymamba.cli import main
from anymamba.models.tokenizer import byte_tokenizer, load_tokenizer


@pytest.mark.parametrize("columns", [200, 80, 60, 40])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_names_are_never_broken(columns: int, language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends", "--device", "cpu", "--json"]) == 0
    ops = json.loads(capsys.readouterr().out)["ops"]
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("anymamba.language._chosen", language)
    assert main(["backends", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    table = told.splitlines()[: len(ops) + 4]
    for op, cells in ops.items():
        (line,) = [line for line in table if line.split(" ")[0].rstrip(":") == op]
        chosen = [name for name, cell in cells.items() if cell["chosen"]]
        assert ({"en": "chosen", "zh": "已选"}[language] in line) == bool(chosen)
        assert columns < 80 or len(line) <= columns
    assert "…" not in told


def test_the_run_folder_stands_for_its_newest_step_with_the_tokenizer_too(tmp_path: Path) -> None:
    byte_tokenizer().save(tmp_path / "run" / "step-000002")
    (tmp_path / "run" / "last.txt").write_text("step-000002\n")
    assert load_tokenizer(tmp_path / "run").encode("a") == [97]
    assert load_tokenizer(str(tmp_path / "run")).eos_id == 256


def test_a_check_says_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["backends", "--device", "cpu", "--check", "--json"])
    told = capsys.readouterr().err.splitlines()
    kernels = [line.split(" s  ")[1].split(":")[0] for line in told if " s  " in line]
    assert {"cpu selective_scan_fn", "cpu causal_conv1d_fn"} <= {" ".join(kernel.split(",")[0].split()[:2]) for kernel in kernels}
    assert len(kernels) == len(set(kernels)), "each kernel once"
