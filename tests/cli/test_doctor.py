"""anymamba doctor as a command: exit codes, standard input, one JSON document."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anymamba.cli import main
from anymamba.doctor.piped import Limited
from anymamba.language import set_language

LOGS = Path(__file__).resolve().parents[1] / "doctor" / "logs"


@pytest.fixture(autouse=True)
def language() -> Iterator[None]:
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


def piped(log: bytes | None, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """``anymamba doctor`` behind a pipe; None leaves the pipe open and silent."""
    command = [sys.executable, "-m", "anymamba", "doctor", "--no-import", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    if log is not None:
        process.stdin.write(log)
        process.stdin.close()
    out, err = process.stdout.read(), process.stderr.read()
    return subprocess.CompletedProcess(command, process.wait(seconds), out.decode(), err.decode())


def test_a_pipe_is_read_without_a_dash() -> None:
    done = piped((LOGS / "nvcc_missing_docker_runtime.txt").read_bytes())
    assert done.returncode == 1 and "nvcc-missing" in done.stdout


def test_a_pipe_that_says_nothing_does_not_hold_up_the_check_of_the_machine() -> None:
    done = piped(None)
    assert done.returncode in (0, 1) and "Python" in done.stdout
    assert "doctor -" in done.stderr


@pytest.mark.parametrize(("log", "word"), [(b"", "empty"), (b" \n\n", "empty"), (bytes(range(256)) * 40, "binary")])
def test_what_is_no_log_is_wrong_usage(log: bytes, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.log").write_bytes(log)
    assert main(["doctor", str(tmp_path / "x.log")]) == 2
    captured = capsys.readouterr()
    assert word in captured.err and captured.out == ""


def test_a_stream_without_end_is_read_to_a_limit() -> None:
    class Endless:
        def read(self, size: int) -> bytes:
            return (b"gcc: fatal error: Killed signal terminated program cc1plus\n" * (size // 50 + 1))[:size]

    stream = Limited(Endless(), b"x", most=3_000_000)  # type: ignore[arg-type]
    assert sum(len(block) for block in iter(lambda: stream.read(1 << 20), b"")) == 3_000_000
    assert stream.stopped


def test_the_report_names_the_file_that_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my log.txt"
    path.write_bytes((LOGS / "unknown_flash_attn.txt").read_bytes())
    assert main(["doctor", str(path)]) == 1
    assert f"anymamba doctor '{path}' --markdown" in capsys.readouterr().out
    assert main(["doctor", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["confidence"] == "none"
