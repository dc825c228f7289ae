"""Two processes over gloo give the numbers of one; sharded checkpoints are ordinary ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import command, flags, losses, settings, tiny_model

from anymamba.models import hub
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.runfolder import read_metrics
from anymamba.training.run.train import train
from anymamba.training.show.report import Reporter


def two_processes(options: dict[str, Any], *more: str) -> str:
    """Runs ``anymamba train`` under torchrun; what it printed on stdout."""
    process = command(
        "--standalone", "--nproc_per_node", "2", "-m", "anymamba", "train", *flags(options), *more,
        module="torch.distributed.run",
    )  # fmt: skip
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-4000:]
    return out


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ddp", "fsdp2"])
def test_two_processes_equal_one(documents_file: Path, tmp_path: Path, shard: bool) -> None:
    start = tiny_model(tmp_path / "start")
    common = {"micro_batch": 2, "steps": 6, "save_every": 3, "eval_every": 3, "keep": 0}
    train(TrainConfig(**settings(start, tmp_path / "one", documents_file, **common)), "", Reporter(quiet=True))
    out = two_processes(settings(start, tmp_path / "two", documents_file, shard=shard, **common))
    assert out.strip().endswith("step-000006")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    scores = [[row["val_loss"] for row in read_metrics(tmp_path / run) if "val_loss" in row] for run in ("one", "two")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)

    one, two = (hub.load(tmp_path / run / "step-000006").state_dict() for run in ("one", "two"))
    for name, weight in one.items():
        assert weight.shape == two[name].shape
        assert float((weight - two[name]).abs().max()) < 1e-4, name


@pytest.mark.slow
def test_a_sharded_run_continues_on_one_process(documents_file: Path, tmp_path: Path) -> None:
    start = tiny_model(tmp_path / "start")
    common = {"micro_batch": 2, "steps": 6, "save_every": 3, "keep": 0}
    two_processes(settings(start, tmp_path / "run", documents_file, shard=True, **common))
    whole = losses(tmp_path / "run")
    config = TrainConfig(**settings(start, tmp_path / "run", documents_file, **common))
    result = train(config, str(tmp_path / "run" / "step-000003"), Reporter(quiet=True))
    assert result.steps == 6
    assert losses(tmp_path / "run") == pytest.approx(whole, abs=1e-5)


def test_an_error_in_the_first_process_stops_all(tmp_path: Path) -> None:
    start = tiny_model(tmp_path / "start")
    (tmp_path / "empty.txt").write_bytes(b"")
    begun = time.monotonic()
    process = command(
        "--standalone", "--nproc_per_node", "2", "-m", "anymamba", "train",
        *flags(settings(start, tmp_path / "run", tmp_path / "empty.txt")), module="torch.distributed.run",
    )  # fmt: skip
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "the file is empty" in err
    assert time.monotonic() - begun < 100
