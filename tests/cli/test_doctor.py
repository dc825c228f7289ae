"""anymamba doctor as a command: exit codes, standard input, one JSON document."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from anymamba.cli import main
from anymamba.language import set_language

LOGS = Path(__file__).resolve().parents[1] / "doctor" / "logs"


@pytest.fixture(autouse=True)
def language():
    yield
    set_language(None)


def test_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(LOGS / "nvcc_missing_docker_runtime.txt")]) == 1
    assert "nvcc-missing" in capsys.readouterr().out


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(LOGS / "gcc_too_new.txt"), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["findings"][0]["cause"] == "gcc-too-new-for-cuda"


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.TextIOWrapper(io.BytesIO(LOGS.joinpath("cuda_mismatch_tuple.txt").read_bytes()))
    monkeypatch.setattr(sys, "stdin", log)
    assert main(["doctor", "-"]) == 1
    assert "cuda-major-mismatch" in capsys.readouterr().out


def test_language_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--lang", "zh", str(LOGS / "disk_full.txt")]) == 1
    assert "磁盘空间已满" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["AM003", "am003", "nvcc-missing"])
def test_explain(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["doctor", "--explain", name]) == 0
    assert capsys.readouterr().out.startswith("# AM003 nvcc-missing")


def test_explain_of_nothing_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--explain", "AM777"]) == 2
    assert "AM777" in capsys.readouterr().err


def test_missing_file_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "no-such.log"]) == 2
    assert "no-such.log" in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--list"]) == 0
    assert len(capsys.readouterr().out.strip().split("\n")) >= 45


def test_empty_log_is_unknown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_bytes(b"")
    assert main(["doctor", str(tmp_path / "empty.log"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["cause"] == "unknown"
