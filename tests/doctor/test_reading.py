"""Long logs, odd encodings and what stands around a line."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anymamba.doctor import reading
from anymamba.doctor.cleaning import clean
from anymamba.doctor.encoding import sniff
from tests.doctor.corpus import cases, diagnose

COMPILER = (
    "/e/lib/python3.12/site-packages/torch/include/ATen/Tensor.h({0}): warning #20012-D: __host__ annotation is ignored\n"
    "[{0}/12] /usr/local/cuda/bin/nvcc -I/tmp/pip-install-z/mamba-ssm_0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f/csrc "
    + "-gencode arch=compute_80,code=sm_80 " * 30
    + "\n"
)
FAILURE = "x.cu: error: #error -- unsupported GNU version! gcc versions later than 13 are not supported!\n"


def write_large(path: Path, size: int) -> int:
    """A compile log of about size bytes whose cause stands in the middle; returns the cause's line number."""
    line = 1
    with path.open("w", encoding="utf-8") as file:
        file.write("Building wheel for mamba-ssm (pyproject.toml) ... error\n")
        written, failure_at = 0, 0
        while written < size:
            if not failure_at and written > size // 2:
                file.write(FAILURE)
                failure_at = line + 1
                line += 1
            block = "".join(COMPILER.format(number) for number in range(line, line + 400))
            file.write(block)
            written += len(block)
            line += 800
        file.write("ninja: build stopped: subcommand failed.\nERROR: Failed building wheel for mamba-ssm\n")
    return failure_at


def seconds_and_memory(path: Path) -> tuple[float, float]:
    """Processor seconds and peak megabytes of the whole command."""
    code = (
        "import resource, sys, json, io, contextlib\n"
        "from anymamba.cli import main\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out): main(['doctor', sys.argv[1], '--json'])\n"
        "first = json.loads(out.getvalue())['findings'][0]\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        # Linux counts the memory of the process that forked this one into ru_maxrss; the high-water mark in /proc does not
        "peak = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0]\n"
        "print(first['cause'], first['evidence'][0]['line'], used.ru_utime + used.ru_stime, int(peak) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    cause, line, seconds, megabytes = done.stdout.split()
    assert cause == "gcc-too-new-for-cuda"
    assert int(line) == int(path.with_suffix(".line").read_text())
    return float(seconds), float(megabytes)


@pytest.mark.parametrize("size", [10_000_000, pytest.param(100_000_000, marks=pytest.mark.slow)])
def test_large_log(tmp_path: Path, size: int) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    path = tmp_path / "build.log"
    path.with_suffix(".line").write_text(str(write_large(path, size)))
    seconds, megabytes = seconds_and_memory(path)
    assert seconds < 10
    assert megabytes < 100


def test_one_endless_line_is_bounded() -> None:
    start = time.process_time()
    kept = reading.read(io.BytesIO(b"torch error " * 1_000_000))
    assert sum(len(line.text) for line in kept.lines) < 600_000
    assert time.process_time() - start < 5


def test_line_numbers_count_the_file() -> None:
    kept = reading.read(io.BytesIO(b"a\r\nb\r10%\r20%\r\nc\n"))
    assert [(line.number, line.text) for line in kept.lines] == [(1, "a"), (2, "b"), (2, "10%"), (2, "20%"), (3, "c")]


def test_words_cover_the_evidence_of_the_corpus() -> None:
    """A long log keeps only lines with one of WORDS: nearly every line that proves something must have one."""
    evidence = [item.text for case in cases() for finding in diagnose(case.log)[:1] for item in finding.evidence[:1]]
    missed = [text for text in evidence if not any(word in text for word in reading.WORDS)]
    assert len(missed) <= 0.1 * len(evidence), missed


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        ("错误：找不到 nvcc".encode("utf-16"), "utf-16-le"),
        (b"\xfe\xff" + "错误 nvcc".encode("utf-16-be"), "utf-16-be"),
        ("plain text without a mark\n".encode("utf-16-le"), "utf-16-le"),
        ("错误：找不到 nvcc".encode(), "utf-8"),
    ],
)
def test_sniff(raw: bytes, encoding: str) -> None:
    assert sniff(raw) == encoding


def test_encodings_mixed_in_one_file() -> None:
    raw = "pip 的输出：错误\n".encode() + "系统找不到指定的文件。\n".encode("gb18030") + "结束 ✓\n".encode()
    assert [line.text for line in reading.read(io.BytesIO(raw)).lines] == [
        "pip 的输出：错误",
        "系统找不到指定的文件。",
        "结束 ✓",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#13 752.5       error: x", "error: x"),
        ("  │ exit code: 1", "exit code: 1"),
        ("  ╰─> [23 lines of output]", "[23 lines of output]"),
        ("  ├─▶ The build backend returned an error", "The build backend returned an error"),
        ("> > quoted error", "quoted error"),
        ("\x1b[1;31merror\x1b[0m: failed", "error: failed"),
        ("[31merror[0m: escape lost", "error: escape lost"),
        ("\x1b]8;;https://x\x07link\x1b]8;;\x07 text", "link text"),
        ("2025-01-02T03:04:05.678Z error", "error"),
        ("a[1] | b", "a[1] | b"),
    ],
)
def test_clean(line: str, words: str) -> None:
    assert clean(line) == words
