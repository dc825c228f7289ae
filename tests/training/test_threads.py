"""Threads follow what other programs use now: with faked readings, faked control groups, and one program that really burns a core."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from tests.training.runs import settings, tiny_model

from anymamba.training.loop.loop import Loop
from anymamba.training.machine import cpu_use, threads
from anymamba.training.machine.cpu_use import Reading
from anymamba.training.machine.parallel import Processes
from anymamba.training.machine.threads import ThreadWatch, choose_threads
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.train import prepare
from anymamba.training.show.report import Reporter


class Machine:
    """A machine of some cores; ``use`` says what others keep busy from then on, while we keep ``ours`` busy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int, most: int = 0) -> None:
        self.now = self.everyone = self.own = self.group = 0.0
        self.use, self.ours, self.inside = 0.0, 0.0, 0.0
        self.threads = most or cores
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(cpu_use, "allowed_cores", lambda: set(range(cores)))
        monkeypatch.setattr(cpu_use, "container_limit", lambda: None)
        monkeypatch.setattr(cpu_use, "read", self.read)
        monkeypatch.setattr(threads, "time", SimpleNamespace(sleep=self.pass_time, perf_counter=lambda: self.now))
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", lambda number: setattr(self, "threads", number))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.own += self.ours * seconds
        self.everyone += (self.ours + self.use) * seconds
        self.group += (self.ours + self.inside) * seconds

    def read(self) -> tuple[Reading, str]:
        return Reading(self.now, self.everyone, self.own, self.group), ""


@pytest.mark.parametrize(
    ("cores", "most", "use", "expected"),
    [(2, 2, 0.0, 2), (2, 2, 0.3, 2), (2, 2, 1.0, 1), (2, 2, 2.0, 1), (12, 8, 4.2, 8), (12, 8, 7.0, 5), (12, 8, 30.0, 1), (1, 1, 1.0, 1)],
)
def test_a_thread_for_every_idle_core(monkeypatch: pytest.MonkeyPatch, cores: int, most: int, use: float, expected: int) -> None:
    machine = Machine(monkeypatch, cores, most)
    machine.use = use
    number, why, may_change = choose_threads(0)
    assert number == expected and may_change
    assert (f"other programs keep {use:.1f} cores busy" in why) == (expected < most)


def test_what_ended_before_the_look_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation just now leaves the load average at 1 for a minute."""
    machine = Machine(monkeypatch, 2)
    machine.use = 2.0
    machine.pass_time(60.0)
    machine.use = 0.0
    monkeypatch.setattr("os.getloadavg", lambda: (2.0, 2.0, 2.0), raising=False)
    assert choose_threads(0)[0] == 2


def test_what_is_fixed_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4)
    machine.use = 3.0
    assert choose_threads(3) == (3, "asked for", False)
    assert choose_threads(0, before=7)[::2] == (7, True)
    assert choose_threads(0, deterministic=True) == (4, "", False)
    assert choose_threads(0, before=7, deterministic=True)[::2] == (7, False)
    monkeypatch.setattr(cpu_use, "container_limit", lambda: 2.5)
    assert choose_threads(0, deterministic=True) == (2, "the container may use 2.5 cores", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert choose_threads(0) == (4, "OMP_NUM_THREADS", False)


def test_a_container_has_its_limit_less_what_others_in_it_use(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 64)
    machine.use, machine.inside = 40.0, 0.0
    monkeypatch.setattr(cpu_use, "container_limit", lambda: 2.5)
    assert choose_threads(0)[:2] == (2, "the container may use 2.5 cores")
    machine.threads, machine.inside = 64, 1.0
    number, why, _ = choose_threads(0)
    assert number == 1 and "other programs in it use 1.0" in why
    machine.threads, machine.use = 64, 63.0
    assert choose_threads(0)[:2] == (1, "other programs keep 63.0 cores busy")


def test_without_counters_all_cores_are_used_and_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4)
    monkeypatch.setattr(cpu_use, "read", lambda: (None, "no /proc here"))
    assert choose_threads(0) == (4, "no /proc here", False)
    assert machine.now == 0, "nothing to wait for"


def test_threads_go_and_come_back_during_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    machine.ours = 2.0
    watch = ThreadWatch(2)
    told = []

    def run(seconds: float) -> None:
        for _ in range(round(seconds / 0.25)):
            machine.pass_time(0.25)
            if said := watch.look():
                told.append(said)
                machine.ours = float(machine.threads)

    run(10)
    assert told == []
    machine.use, machine.ours = 0.67, 1.33  # three runnable threads share two cores
    run(5)
    assert machine.threads == 1 and told == ["threads 2 -> 1: other programs keep 0.7 cores busy"]
    machine.use = 1.0
    run(20)
    assert machine.threads == 1, "it stays: the other program has a core of its own now"
    machine.use = 0.0
    run(5)
    assert machine.threads == 2 and told[1:] == ["threads 1 -> 2: cores have become free"]


@pytest.mark.parametrize("cores", [8, 64])
@pytest.mark.parametrize("burners", [1, 4, 6, 100])
def test_the_number_settles(monkeypatch: pytest.MonkeyPatch, cores: int, burners: int) -> None:
    """The scheduler shares the cores fairly among our threads and theirs; more looks do not make the number swing."""
    machine = Machine(monkeypatch, cores)
    watch = ThreadWatch(cores)
    history = []
    for _ in range(40):
        share = min(1.0, cores / (machine.threads + burners))
        machine.ours, machine.use = machine.threads * share, burners * share
        machine.pass_time(3.0)
        watch.look()
        history.append(machine.threads)
    assert len(set(history[20:])) == 1
    assert max(1, cores - burners) <= history[-1] + 1 and history[-1] <= max(1, cores - burners) + cores // 4


def test_looks_are_seldom_where_they_are_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    watch = ThreadWatch(2)
    cheap = machine.read

    def dear() -> tuple[Reading, str]:
        machine.pass_time(0.1)
        return cheap()

    monkeypatch.setattr(cpu_use, "read", dear)
    machine.pass_time(3.0)
    watch.look()
    assert watch.every == pytest.approx(10.0)


def test_control_groups_of_both_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Version 2: the limit may stand above our own group. Version 1: in a container /proc names a path that is not there."""
    lines = {"v2": "0::/outer/inner\n", "v1": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n"}
    read_text = Path.read_text
    version = "v2"

    def fake(self: Path, *arguments: Any, **more: Any) -> str:
        return lines[version] if str(self) == "/proc/self/cgroup" else read_text(self, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", fake)
    monkeypatch.setattr(cpu_use, "_GROUPS", tmp_path)
    (tmp_path / "outer/inner").mkdir(parents=True)
    (tmp_path / "outer/inner/cpu.max").write_text("max 100000\n")
    (tmp_path / "outer/cpu.max").write_text("150000 100000\n")
    (tmp_path / "outer/cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert cpu_use.container_limit() == 1.5 and cpu_use._group_seconds() == 2.5
    version = "v1"
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu,cpuacct/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu,cpuacct/cpuacct.usage").write_text("7000000000\n")
    assert cpu_use.container_limit() is None and cpu_use._group_seconds() == 0.0
    (tmp_path / "cpu,cpuacct/cpu.cfs_quota_us").write_text("300000\n")
    assert cpu_use.container_limit() == 3.0 and cpu_use._group_seconds() == 7.0


def test_systems_whose_counters_have_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS: no affinity, cores with four fields. Windows: interrupt and dpc, and no times of children."""
    process = SimpleNamespace(
        children=lambda recursive: [], cpu_times=lambda: SimpleNamespace(user=3.0, system=1.0), parent=lambda: None
    )
    monkeypatch.setattr(psutil, "Process", lambda: process)
    monkeypatch.setattr(cpu_use, "_GROUPS", Path("/nowhere"))
    Core = type("Core", (SimpleNamespace,), {})
    for names in (("user", "nice", "system", "idle"), ("user", "system", "idle", "interrupt", "dpc")):
        core = Core(**dict.fromkeys(names, 5.0), _fields=names)
        monkeypatch.setattr(psutil, "cpu_times", lambda percpu, core=core: [core, core])
        reading, why = cpu_use.read()
        assert reading is not None and why == ""
        assert (reading.everyone, reading.own) == (2 * 5.0 * (len(names) - 1), 4.0)

    def closed(percpu: bool) -> None:
        raise PermissionError("Permission denied: '/proc/stat'")

    monkeypatch.setattr(psutil, "cpu_times", closed)
    reading, why = cpu_use.read()
    assert reading is None and "PermissionError" in why and "/proc/stat" in why


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    time.sleep(0.3)
    yield process
    process.kill()
    process.wait()


def test_a_program_that_burns_a_core_is_seen_and_our_own_is_not(
    burner: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = cpu_use.read()
    time.sleep(1.0)
    after, _ = cpu_use.read()
    assert before is not None and after is not None
    # it is a child of ours, so all that it uses is our own
    used = after.own - before.own
    assert used > 0.1
    mine = cpu_use.others(before, after)
    # and once it is not, it is another program
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive=False: [])
    before, _ = cpu_use.read()
    time.sleep(1.0)
    after, _ = cpu_use.read()
    assert before is not None and after is not None
    cores = len(cpu_use.allowed_cores()) or 1
    assert cpu_use.others(before, after) > min(0.4, 0.5 * cores), f"with it as our own: {mine:.2f}"


def test_the_loop_looks_between_micro_batches(documents_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watch:
        looks = 0

        def look(self) -> str:
            Watch.looks += 1
            torch.set_num_threads(1 + Watch.looks % 2)
            return ""

    options = settings(tiny_model(tmp_path / "start"), tmp_path / "run", documents_file, micro_batch=2, steps=3)
    processes = Processes("cpu")
    run = prepare(TrainConfig(**options), "", processes, Reporter(quiet=True))
    run.thread_watch = Watch()  # type: ignore[assignment]
    before = torch.get_num_threads()
    try:
        result = Loop(run).train()
    finally:
        torch.set_num_threads(before)
    assert Watch.looks == 3 * 4 and result.loss == pytest.approx(result.loss)
