"""Time: limits hold, a size that cannot is said before the start, signals are answered within a micro-batch, --plan leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.training.runs import flags, settings, tiny_model

from anymamba.cli import main
from anymamba.errors import AnymambaError
from anymamba.training.loop import pace
from anymamba.training.loop.interrupt import Interrupt
from anymamba.training.loop.loop import Loop
from anymamba.training.loop.pace import Pace
from anymamba.training.machine import probe
from anymamba.training.machine.parallel import Processes
from anymamba.training.run import checkpoint
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.planning import planned
from anymamba.training.run.train import prepare
from anymamba.training.show.report import Reporter

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.mark.parametrize("step", [0.05, 0.9, 11.0])
@pytest.mark.parametrize("wrong", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("spent", [3.0, 25.0])
def test_a_limit_holds_whatever_the_probe_said(
    monkeypatch: pytest.MonkeyPatch, documents_file: Path, tmp_path: Path, step: float, wrong: float, spent: float
) -> None:
    """The loop's own decisions on a faked clock: 2 minutes, ``spent`` of them before the first step; steps, validations,
    samples and checkpoints take their time, and the probe was wrong by a factor."""
    clock = Clock(monkeypatch)
    options = settings(tiny_model(tmp_path / "start"), tmp_path / "run", documents_file, steps=100_000, save_every=0, sample_every=0)
    run = prepare(TrainConfig(**{**options, "eval_tokens": -1}), "", Processes("cpu"), Reporter(quiet=True))
    run.config.max_minutes, run.begin, run.step_seconds = 2.0, clock.now, step * wrong
    clock.now += spent
    run.plan.steps = max(1, int((120 - spent) * 0.9 / run.step_seconds))
    loop = Loop(run)

    def one_step(stop: Any) -> bool:
        clock.now += step
        loop.step += 1
        loop.pace.add(512)
        return True

    def pausing(kind: str, seconds: float) -> Any:
        def work(*arguments: Any, **more: Any) -> None:
            clock.now += seconds
            loop.pace.pause(kind)

        return work

    monkeypatch.setattr(loop, "one_step", one_step)
    monkeypatch.setattr(loop, "report", lambda: loop.pace.synchronised())
    monkeypatch.setattr(loop, "_time_products", lambda: None)
    monkeypatch.setattr(loop, "_validate", pausing("validation", 0.4))
    monkeypatch.setattr(loop, "_sample", pausing("sample", 1.2))
    monkeypatch.setattr(loop, "_save", pausing("checkpoint", 0.5))
    loop._steps(Interrupt())
    assert 108 <= clock.now - 1000 <= 132
    assert loop.schedule.rate(loop.step - 1) < 0.35 * run.plan.lr, "the rate has come down"


def test_the_speed_of_now_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program comes, and steps take twice as long."""
    clock = Clock(monkeypatch)
    measured = Pace(limit=1000.0)
    for seconds in [1.0] * 50 + [2.0] * pace.RECENT:
        clock.now += seconds
        measured.add(100)
        measured.synchronised()
    assert measured.step_seconds == pytest.approx(2.0)
    assert measured.tokens_per_s == pytest.approx(100 * 59 / (47 + 24), rel=1e-3)


def test_a_size_that_cannot_is_said_with_the_one_that_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before any data is read; the speed of the machine is faked: a millisecond for a token and a hundred million parameters."""

    def token_seconds(model: Any, device: torch.device, autocast: Any) -> float:
        return sum(parameter.numel() for parameter in model.parameters()) / 1e8 / 1000

    monkeypatch.setattr(probe, "token_seconds", token_seconds)
    (tmp_path / "a.txt").write_text("some text " * 200_000)
    with pytest.raises(AnymambaError) as caught:
        prepare(
            TrainConfig(data=[str(tmp_path / "a.txt")], out=str(tmp_path / "run"), size="130m", max_minutes=1.0),
            "", Processes("cpu"), Reporter(quiet=True),
        )  # fmt: skip
    text = str(caught.value)
    assert "--size 130m cannot make 10 steps in --max-minutes 1" in text and "--size small, or" in text and "--max-minutes " in text
    assert not (tmp_path / "run").exists()


def test_a_model_too_slow_for_its_time_is_refused_after_a_micro_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, documents_file: Path
) -> None:
    monkeypatch.setattr(probe, "pass_seconds", lambda model, batch, autocast: 2.0)
    options = settings(tiny_model(tmp_path / "start"), tmp_path / "run", documents_file, steps=0, max_minutes=0.1)
    with pytest.raises(AnymambaError, match="cannot make 10 steps in --max-minutes 0.1") as caught:
        prepare(TrainConfig(**options), "", Processes("cpu"), Reporter(quiet=True))
    assert caught.value.fix is not None and "--size" not in caught.value.fix, "the model is given: no other size helps"


SLOW = """
import sys, time, torch
from anymamba.cli import main
large = torch.zeros(9000, 9000) if sys.argv[2] == "product" else None
from anymamba.training.loop.loop import Loop
real = Loop._loss
def slow(self, part, counted):
    open(sys.argv[1], "a").write("micro-batch\\n")
    time.sleep(0.5) if sys.argv[2] == "sleep" else torch.mm(large, large)
    return real(self, part, counted)
Loop._loss = slow
sys.exit(main(sys.argv[3:]))
"""


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_is_answered_within_a_micro_batch(documents_file: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Eight micro-batches of half a second make a step."""
    script, log = tmp_path / "slow.py", tmp_path / "log"
    script.write_text(SLOW)
    options = settings(tiny_model(tmp_path / "start"), tmp_path / "run", documents_file, micro_batch=1, steps=50, validation=0.0)
    process = subprocess.Popen(
        [sys.executable, str(script), str(log), "sleep", "train", *flags(options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not log.exists() or log.read_text().count("\n") < 10:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(number)
    sent = log.read_text().count("\n")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "to go on: anymamba train --resume auto --out" in errors
    assert log.read_text().count("\n") <= sent + 1
    last = checkpoint.newest(tmp_path / "run")
    assert last is not None and last.state["step"] == sent // 8 and not last.state["finished"]


@posix
def test_a_second_signal_stops_at_once(documents_file: Path, tmp_path: Path) -> None:
    """In the middle of a product that takes half a minute, and in which no Python runs."""
    script, log = tmp_path / "slow.py", tmp_path / "log"
    script.write_text(SLOW)
    options = settings(tiny_model(tmp_path / "start"), tmp_path / "run", documents_file, micro_batch=1, steps=50, validation=0.0)
    process = subprocess.Popen(
        [sys.executable, str(script), str(log), "product", "train", *flags(options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not log.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - begin < 5 and "stopped at once" in errors


def test_under_torchrun_the_echo_of_a_signal_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    left: list[int] = []
    interrupt = Interrupt(left.append)
    for _ in range(3):
        interrupt._came(signal.SIGINT)
    assert interrupt.asked == signal.SIGINT and interrupt.exit_code == 130 and left == []
    interrupt._times[-1] -= 10
    interrupt._came(signal.SIGINT)
    assert left == [signal.SIGINT]


def test_without_a_way_to_leave_the_second_signal_raises() -> None:
    interrupt = Interrupt()
    interrupt._came(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interrupt._came(signal.SIGTERM)


def test_a_plan_says_what_it_takes_and_leaves_nothing(tmp_path: Path, capsys: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(text)
    words = ["train", "a.txt", "--length", "64", "--batch-tokens", "128", "--plan"]
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    parameters = plan["parameters"]
    assert plan["memory"]["weights"] == 4 * parameters and plan["memory"]["optimiser"] == 8 * parameters
    assert plan["memory"]["total"] == sum(plan["memory"][name] for name in ("weights", "gradients", "optimiser", "activations"))
    assert plan["rows"] == 2 and plan["step_seconds"] > 0 and plan["steps"] == plan["steps_without_limit"]
    assert [row["size"] for row in plan["sizes"]][:3] == ["tiny", "small", "130m"] and plan["sizes"][0]["measured"]
    assert main(["--lang", "en", *words]) == 0
    told = capsys.readouterr().out
    for part in ("memory", "AdamW", "a step", "(measured)", "(estimated)", "steps"):
        assert part in told, told
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert main([*words, "--resume", "auto"]) == 2


def test_a_plan_reads_the_beginning_of_a_large_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anymamba.training.run import planning

    monkeypatch.setattr(planning, "SAMPLE", 50_000)
    (tmp_path / "big.txt").write_text("".join(f"line {number} of a long text\n" for number in range(120_000)))
    size = (tmp_path / "big.txt").stat().st_size
    config = TrainConfig(data=[str(tmp_path / "big.txt")], length=64, batch_tokens=128, out=str(tmp_path / "run"), validation=0.0)
    plan = planned(config, Processes("cpu"))
    assert plan["tokens_estimated"] and plan["tokens"] == pytest.approx(size, rel=0.02)
    assert plan["steps"] == pytest.approx(8 * size / 128, rel=0.05)
