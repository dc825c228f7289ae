"""A finished or interrupted run goes on: longer, or with other options, and says what that changes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import losses, settings, tiny_model

from anymamba.cli import main
from anymamba.errors import AnymambaError
from anymamba.training.data.rows import Feeder, StreamRows
from anymamba.training.loop.loop import Loop
from anymamba.training.machine.parallel import Processes
from anymamba.training.run import checkpoint
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.continuing import OPEN_END, Progress, changes, settle
from anymamba.training.run.derive import RunPlan
from anymamba.training.run.runfolder import read_metrics
from anymamba.training.run.train import prepare, train
from anymamba.training.show.report import Reporter

Go = Callable[..., Any]


@pytest.fixture
def go(tmp_path: Path, documents_file: Path) -> Go:
    """Trains in "run"; what the reporter said is in ``go.said``."""
    start = tiny_model(tmp_path / "start")

    def run(resume: str = "", out: str = "run", **options: Any) -> Any:
        stream = io.StringIO()
        config = TrainConfig(**settings(start, tmp_path / out, documents_file, **options))
        result = train(config, resume, Reporter(stream=stream))
        run.said = stream.getvalue()  # type: ignore[attr-defined]
        return result

    return run


def test_more_steps_after_the_last(go: Go, tmp_path: Path) -> None:
    go(steps=6)
    result = go("auto", steps=8)
    assert result.steps == 8 and result.exit_code == 0
    rows = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 9)) and rows[-1]["tokens"] == 8 * 512
    for part in ("schedule ends at step 8 instead of 6", "learning rate of the next step", "from pass"):
        assert part in go.said, go.said  # type: ignore[attr-defined]
    # the rate is that of a run of eight steps
    go(out="whole", steps=8)
    whole = [row for row in read_metrics(tmp_path / "whole") if "loss" in row]
    assert rows[-1]["lr"] == pytest.approx(whole[-1]["lr"]) and rows[6]["lr"] == pytest.approx(whole[6]["lr"])
    saved = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert saved["config"]["steps"] == 8 and saved["changes"][0]["step"] == 6


def test_nothing_to_do_says_how_to_train_longer(go: Go, tmp_path: Path) -> None:
    go(steps=3)
    before = losses(tmp_path / "run")
    result = go("auto", steps=3)
    assert result.steps == 3 and losses(tmp_path / "run") == before and result.loss == before[-1]
    assert "this run is finished: 3 steps" in go.said and "--steps" in go.said  # type: ignore[attr-defined]


def test_fewer_steps_than_made_is_a_usage_error(go: Go) -> None:
    go(steps=4)
    with pytest.raises(AnymambaError, match="--steps 3: the run has made 4 steps already") as caught:
        go("auto", steps=3)
    assert caught.value.code == "usage"


def test_another_batch_goes_on_where_the_data_stood(go: Go, tmp_path: Path) -> None:
    go(steps=8, save_every=4, keep=0)
    result = go(str(tmp_path / "run" / "step-000004"), steps=8, batch_tokens=1024, micro_batch=4)
    assert result.steps == 8 and result.tokens == 4 * 512 + 4 * 1024
    for part in ("a step has 16 rows instead of 8; the data goes on at row 33", "--micro-batch: auto -> 4"):
        assert part in go.said, go.said  # type: ignore[attr-defined]
    state = checkpoint.open_checkpoint(tmp_path / "run" / "step-000008").state
    assert state["row"] == 4 * 8 + 4 * 16 and state["rows"] == 16
    go("auto", steps=9, batch_tokens=64)
    assert checkpoint.open_checkpoint(tmp_path / "run" / "step-000009").state["micro_batch"] == 1
    go("auto", steps=10, batch_tokens=512)
    assert checkpoint.open_checkpoint(tmp_path / "run" / "step-000010").state["micro_batch"] == 8, "rows at once are chosen anew"


def test_other_options_are_said_and_take_effect(go: Go, tmp_path: Path) -> None:
    go(steps=4, save_every=2, keep=0)
    go(str(tmp_path / "run" / "step-000002"), steps=4, lr=1e-3, precision="bf16")
    assert "--lr: 0.003 -> 0.001" in go.said and "--precision: fp32 -> bf16" in go.said  # type: ignore[attr-defined]
    rates = [row["lr"] for row in read_metrics(tmp_path / "run") if "lr" in row]
    assert rates[2] < 0.4 * rates[1]


def test_a_further_time_limit_on_a_finished_run(go: Go, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = go(steps=12, max_minutes=1.0, batch_tokens=256)
    assert first.steps == 12 and checkpoint.open_checkpoint(first.checkpoint).state["finished"]
    out = str(tmp_path / "run")
    # the old limit is not repeated by itself
    assert main(["train", "--resume", "auto", "--out", out]) == 0
    assert "this run is finished: 12 steps" in capsys.readouterr().err
    assert main(["train", "--resume", "auto", "--out", out, "--max-minutes", "0.1"]) == 0
    told = capsys.readouterr().err
    assert "what changes from here on" in told and "the schedule ends at step" in told
    last = checkpoint.newest(tmp_path / "run")
    assert last is not None and last.state["step"] > 12 and last.state["finished"]


def test_steps_take_the_place_of_epochs(go: Go, tmp_path: Path) -> None:
    first = go(steps=0, epochs=0.5)
    assert main(["train", "--resume", "auto", "--out", str(tmp_path / "run"), "--steps", str(first.steps + 2), "-q"]) == 0
    assert len(losses(tmp_path / "run")) == first.steps + 2
    assert main(["train", "--resume", "auto", "--out", str(tmp_path / "run"), "--epochs", "3", "-q"]) == 0
    assert len(losses(tmp_path / "run")) > first.steps + 2


def test_what_a_run_may_become() -> None:
    """Without training: the plan of a run of 100 steps of 8 rows that stands at step 60."""
    done = Progress(step=60, row=480, tokens=480 * 64, steps=100, planned=100, warmup=5, rows=8, lr=3e-3)

    def steps(done: Progress, before: dict[str, Any], now: dict[str, Any], rows: int = 8) -> int:
        plan = RunPlan(length=64, rows=rows, steps=77, warmup=3, lr=3e-3)
        settle(plan, TrainConfig(**now), TrainConfig(**before), done, 400)
        return plan.steps

    assert steps(done, {}, {}) == 100
    assert steps(done, {}, {"steps": 80}) == 80
    assert steps(done, {}, {"batch_tokens": 1024}, rows=16) == 60 + 20, "as many rows as were planned"
    assert steps(done, {"steps": 100}, {"steps": 100, "batch_tokens": 1024}, rows=16) == 100, "as many steps as were asked for"
    assert steps(done, {}, {"epochs": 3.0}) == 150
    shortened = Progress(step=60, row=480, steps=70, planned=100, warmup=5, rows=8, lr=3e-3)
    assert steps(shortened, {"max_minutes": 1.0}, {"max_minutes": 2.0}) == 100
    finished = Progress(step=60, row=480, steps=60, planned=60, warmup=5, rows=8, lr=3e-3, finished=True)
    assert steps(finished, {}, {}) == 60
    assert steps(finished, {}, {"max_minutes": 1.0}) == OPEN_END
    assert steps(finished, {}, {"steps": 80}) == 80
    early = Progress(step=60, row=480, steps=100, planned=100, warmup=5, rows=8, lr=3e-3, finished=True)
    assert steps(early, {"patience": 2}, {"patience": 2}) == 60
    assert steps(early, {"patience": 2}, {"patience": 5}) == 100
    same = RunPlan(length=64, rows=8, steps=100, warmup=5, lr=3e-3)
    assert changes(same, TrainConfig(), TrainConfig(), done, 400) == []


def test_the_feeder_goes_on_at_a_row() -> None:
    from tests.training.test_packing import stream

    rows = StreamRows(stream(1000, [0]), 16, seed=0)
    small, large = Feeder(rows, 4, seed=1), Feeder(rows, 8, seed=1)
    large.continue_at(6, 24)
    assert (large.batch(6).input_ids[:4] == small.batch(6).input_ids).all()
    assert (large.batch(6).input_ids[4:] == small.batch(7).input_ids).all()
    assert (large.batch(8).input_ids[:4] == small.batch(10).input_ids).all()


def test_a_step_given_up_leaves_the_weights_alone(documents_file: Path, tmp_path: Path) -> None:
    options = settings(tiny_model(tmp_path / "start"), tmp_path / "run", documents_file, micro_batch=2)
    loop = Loop(prepare(TrainConfig(**options), "", Processes("cpu"), Reporter(quiet=True)))
    loop.one_step()
    before = {name: weight.clone() for name, weight in loop.run.model.state_dict().items()}
    answers = iter([False, True])
    assert loop.one_step(lambda: next(answers)) is False
    assert loop.step == 1 and next(answers, None) is None
    assert all((weight == before[name]).all() for name, weight in loop.run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in loop.run.model.parameters())


def test_room_on_the_disk_is_asked_for_what_is_not_there_yet(tmp_path: Path) -> None:
    size = checkpoint.size_on_disk(1000)
    assert checkpoint.room_needed(tmp_path, 1000, keep=2, validates=False) == 3 * size
    (tmp_path / "step-000010").mkdir()
    assert checkpoint.room_needed(tmp_path, 1000, keep=2, validates=False) == 2 * size
    (tmp_path / "step-000020").mkdir()
    (tmp_path / "step-000030").mkdir()
    assert checkpoint.room_needed(tmp_path, 1000, keep=2, validates=False) == size
    assert checkpoint.room_needed(tmp_path, 1000, keep=0, validates=True) == size + 4000
