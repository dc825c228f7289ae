"""Ctrl-C, kill -9 and a full disk lose at most what came after the last checkpoint."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import command, flags, losses, settings, tiny_model

from anymamba.errors import AnymambaError
from anymamba.models import hub
from anymamba.training.machine import disk, fit
from anymamba.training.run import checkpoint
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.runfolder import read_metrics
from anymamba.training.run.train import train
from anymamba.training.show.report import Reporter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 90) -> None:
    """Until the file is there."""
    limit = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < limit, f"no {path} after {seconds} s"
        time.sleep(0.02)


def test_kill_nine_at_any_time_and_resume_gives_the_same_losses(documents_file: Path, tmp_path: Path) -> None:
    start = tiny_model(tmp_path / "start")
    options = settings(start, tmp_path / "killed", documents_file, steps=60, save_every=10, keep=2, eval_every=60)
    process = command("train", *flags(options))
    wait_for(tmp_path / "killed" / "step-000020", process)
    time.sleep(0.05 + os.getpid() % 7 / 20)  # anywhere between two checkpoints, or inside one
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reached = len(losses(tmp_path / "killed"))
    assert 20 <= reached < 60, "the process was meant to die in the middle"
    last = checkpoint.newest(tmp_path / "killed")
    assert last is not None and last.state["step"] >= reached - 11
    hub.load(last.folder)

    threads = torch.get_num_threads()
    try:  # on one thread, as the process that was killed
        train(TrainConfig(**options, threads=1), "auto", Reporter(quiet=True))
        train(TrainConfig(**{**options, "out": str(tmp_path / "straight")}, threads=1), "", Reporter(quiet=True))
    finally:
        torch.set_num_threads(threads)
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")
    assert not [entry for entry in (tmp_path / "killed").iterdir() if entry.name.startswith(".")]


def test_ctrl_c_saves_and_exits_130(documents_file: Path, tmp_path: Path) -> None:
    start = tiny_model(tmp_path / "start")
    options = settings(start, tmp_path / "run", documents_file, steps=100_000, save_every=100_000, eval_every=100_000)
    process = command("train", *flags(options))
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    while not losses(tmp_path / "run"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err[-3000:]
    assert "stopping after this micro-batch" in err and "Traceback" not in err
    saved = checkpoint.newest(tmp_path / "run")
    assert saved is not None and saved.state["step"] == len(losses(tmp_path / "run")) > 0
    assert not saved.state["finished"]
    assert f"to go on: anymamba train --resume auto --out {tmp_path / 'run'}" in err
    assert out.strip() == str(saved.folder)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Any:
    """The system refuses to write beyond this size, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_keeps_the_last_checkpoint_whole(documents_file: Path, tmp_path: Path) -> None:
    start = tiny_model(tmp_path / "start")
    options = settings(start, tmp_path / "run", documents_file, steps=6, save_every=3, keep=0)
    train(TrainConfig(**{**options, "out": str(tmp_path / "straight")}), "", Reporter(quiet=True))
    train(TrainConfig(**options), "", Reporter(quiet=True))
    for file in (tmp_path / "run" / "step-000006").iterdir():
        file.unlink()
    (tmp_path / "run" / "step-000006").rmdir()
    weights = (tmp_path / "run" / "step-000003" / "model.safetensors").stat().st_size
    with files_of_at_most(weights // 2), pytest.raises(AnymambaError, match="full") as caught:
        train(TrainConfig(**options), "auto", Reporter(quiet=True))
    assert caught.value.code == "disk" and "--resume auto" in str(caught.value)
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-000003"]
    assert not list((tmp_path / "run").glob(".step*")), "half a checkpoint stayed behind"
    train(TrainConfig(**options), "auto", Reporter(quiet=True))
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")


def test_a_torn_line_of_metrics_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]


def test_too_little_disk_is_said_before_training(documents_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = tiny_model(tmp_path / "start")
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(AnymambaError, match="not enough disk space for the checkpoints") as caught:
        train(TrainConfig(**settings(start, tmp_path / "run", documents_file)), "", Reporter(quiet=True))
    assert "are free" in str(caught.value)


def test_too_little_memory_is_said_before_training(documents_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = tiny_model(tmp_path / "start")
    options = settings(start, tmp_path / "run", documents_file)
    monkeypatch.setattr(fit.memory, "left", lambda device: 100_000)
    with pytest.raises(AnymambaError, match="does not fit into memory") as caught:
        train(TrainConfig(**options), "", Reporter(quiet=True))
    assert "optimiser states take" in str(caught.value) and "--shard" in str(caught.value)


def test_the_micro_batch_shrinks_with_the_memory(documents_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = tiny_model(tmp_path / "start")
    sizes = {}
    for left in (100_000_000, 3_000_000, 800_000):
        monkeypatch.setattr(fit.memory, "left", lambda device, left=left: left)
        out = tmp_path / str(left)
        train(TrainConfig(**settings(start, out, documents_file, steps=1)), "", Reporter(quiet=True))
        saved = checkpoint.newest(out)
        assert saved is not None
        sizes[left] = saved.state["micro_batch"], saved.state["recompute"]
    assert sizes[100_000_000] == (8, False)
    assert 1 <= sizes[3_000_000][0] < 8 and not sizes[3_000_000][1]
    assert sizes[800_000][1], "the last resort is to recompute activations"


def test_checkpoints_that_cannot_be_continued(documents_file: Path, tmp_path: Path) -> None:
    start = tiny_model(tmp_path / "start")
    options = settings(start, tmp_path / "run", documents_file, steps=4, save_every=2, keep=0)
    train(TrainConfig(**options), "", Reporter(quiet=True))

    with pytest.raises(AnymambaError, match="holds no training state"):
        train(TrainConfig(**options), str(start), Reporter(quiet=True))
    with pytest.raises(AnymambaError, match="holds no training state"):
        train(TrainConfig(**options), str(tmp_path / "nowhere"), Reporter(quiet=True))
    other = {**options, "out": str(tmp_path / "other")}
    with pytest.raises(AnymambaError, match="belongs to another run"):
        train(TrainConfig(**other), str(tmp_path / "run" / "step-000002"), Reporter(quiet=True))

    moments = tmp_path / "run" / "step-000004" / "optimizer.safetensors"
    moments.write_bytes(moments.read_bytes()[:-100])
    with pytest.raises(AnymambaError, match=r"optimizer\.safetensors is damaged") as caught:
        train(TrainConfig(**options), "auto", Reporter(quiet=True))
    assert "older step folder" in str(caught.value)
    back = TrainConfig(**{**options, "save_every": 100})
    result = train(back, str(tmp_path / "run" / "step-000002"), Reporter(quiet=True))
    assert result.steps == 4 and [row["step"] for row in read_metrics(tmp_path / "run") if "loss" in row] == [1, 2, 3, 4]
    with pytest.raises(AnymambaError, match="holds no training state"):
        train(back, str(tmp_path / "run" / "step-000003"), Reporter(quiet=True))

    weights = tmp_path / "run" / "step-000004" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AnymambaError):
        train(TrainConfig(**options), "auto", Reporter(quiet=True))


def test_the_tokenizer_must_fit_the_model(corpus_file: Path, tmp_path: Path, text: str) -> None:
    from anymamba.training.data import corpus

    start = tiny_model(tmp_path / "start")
    corpus.train_bpe(iter([text]), 500).save(tmp_path / "bpe")
    options = settings(start, tmp_path / "run", corpus_file, tokenizer=str(tmp_path / "bpe"))
    with pytest.raises(AnymambaError, match="500 tokens, the model 264"):
        train(TrainConfig(**options), "", Reporter(quiet=True))
