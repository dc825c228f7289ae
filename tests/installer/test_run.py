"""Installing into a throw-away environment: what is added is recorded, removed again, and never there after a failure or a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from anymamba.errors import AnymambaError
from anymamba.installer import progress
from anymamba.installer.environment import Environment
from anymamba.installer.run import Runner, StepFailed
from anymamba.installer.step import Choice, InstallStep, Plan
from anymamba.installer.undo import rollback, uninstall
from anymamba.installer.undo.guard import MARK, _members
from anymamba.installer.undo.lock import Lock

PIP = ("{python}", "-m", "pip")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills process groups")


def wheel(folder: Path, name: str, version: str = "1.6.1", needs: str = "", files: int = 3, script: str = "") -> Path:
    """A pure-Python wheel with this name."""
    module = name.replace("-", "_")
    path = folder / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {needs}\n" if needs else ""
    )
    content = {f"{module}/__init__.py": f"version = {version!r}\n"}
    content.update({f"{module}/part{number}.py": "x = 1\n" * 200 for number in range(files)})
    content[f"{info}/METADATA"] = metadata
    content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if script:
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {module}:version\n"
    content[f"{info}/RECORD"] = "".join(f"{entry},,\n" for entry in [*content, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in content.items():
            archive.writestr(entry, text)
    return path


def plan(
    file: Path, index: Path, needs: tuple[str, ...] = ("tiny-need",), build: InstallStep | None = None, builds: tuple[InstallStep, ...] = ()
) -> Plan:
    """The plan for one local wheel, with dependencies from a folder instead of the network."""
    offline = ("--no-index", "--find-links", str(index))
    report = (
        *PIP,
        "install",
        "--dry-run",
        "--quiet",
        *offline,
        "--report",
        "{work}/needed.json",
        "-c",
        "{work}/constraints.txt",
    )
    download = (*PIP, "download", "--no-deps", *offline, "-d", "{work}/wheels", "NAME==VERSION ...")
    steps = (
        InstallStep("constraints", "constraints"),
        InstallStep("local", "take the wheel", (), {}, "causal-conv1d", str(file)),
        *([build] if build else builds),
        InstallStep("dependencies", "dependencies", ((*report, *needs), download)),
        InstallStep("install", "install", ((*PIP, "install", "--force-reinstall", "--no-deps", "--no-index", "WHEELS"),)),
        InstallStep("verify", "verify", (("{python}", "-c", "pass"),)),
    )
    return Plan("linux", "local", (), packages=(Choice("causal-conv1d", "1.6.1", "local", "test"),), steps=steps)


def passes(packages: list[str]) -> dict[str, Any]:
    return {"ok": True, "gpu": False, "checks": []}


def fails(packages: list[str]) -> dict[str, Any]:
    return {"ok": False, "gpu": True, "checks": [{"name": "causal-conv1d", "ok": False, "text": "differs by 0.5"}]}


def fingerprint(environment: Environment) -> dict[str, str]:
    """Every file of the environment but caches of bytecode."""
    top = environment.packages
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for root in (top, environment.scripts)
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(path, with_pip=True, symlinks=True)
    return path


@pytest.fixture
def environment(template: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The throw-away environment, checked to be as it was found when a test has removed what it added."""
    monkeypatch.setenv("ANYMAMBA_CACHE_DIR", str(tmp_path / "cache"))
    made = Environment(str(template / "bin" / "python"))
    yield made
    added = [name for name in made.freeze() if name in ("causal-conv1d", "tiny-need", "old-thing")]
    if added:
        subprocess.run([made.python, "-m", "pip", "uninstall", "-y", "-q", *added], check=True)
    for left in made.state.glob("*.json"):
        left.unlink()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    index = tmp_path / "index"
    wheel(index, "tiny-need", "2.0", script="tiny-command")
    return wheel(tmp_path, "causal-conv1d", needs="tiny-need"), index


def records(state: Path) -> list[str]:
    """What an earlier test's installs have left on record in the shared environment."""
    return sorted(str(path.relative_to(state)) for path in state.rglob("*")) if state.exists() else []


def test_added_recorded_and_removed_again(environment: Environment, files: tuple[Path, Path]) -> None:
    before, told = fingerprint(environment), []
    result = Runner(environment, told.append, passes).run(plan(*files))
    assert result.added == {"causal-conv1d": "1.6.1", "tiny-need": "2.0"}
    assert (environment.scripts / "tiny-command").exists()
    assert "pip install" in result.log.read_text("utf-8") and told
    assert not (environment.state / rollback.JOURNAL).exists()
    names, said = uninstall.removable(environment, ["causal-conv1d"])
    assert names == ["causal-conv1d", "tiny-need"] and said == []
    uninstall.remove(environment, names)
    assert fingerprint(environment) == before
    assert not environment.state.exists()


def test_uninstall_leaves_what_others_have_come_to_need(
    environment: Environment, files: tuple[Path, Path], tmp_path: Path
) -> None:
    Runner(environment, lambda line: None, passes).run(plan(*files))
    other = wheel(tmp_path / "other", "old-thing", "1.0", needs="tiny-need")
    subprocess.run(
        [environment.python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", str(other)], check=True
    )
    names, said = uninstall.removable(environment, [])
    assert names == ["causal-conv1d"] and "old-thing" in said[0]


def test_uninstall_refuses_what_install_did_not_add(environment: Environment) -> None:
    with pytest.raises(AnymambaError, match="mamba-ssm"):
        uninstall.removable(environment, ["mamba-ssm"])


def test_failed_verification_puts_everything_back(environment: Environment, files: tuple[Path, Path]) -> None:
    before, frozen = fingerprint(environment), environment.freeze()
    with pytest.raises(AnymambaError) as caught:
        Runner(environment, lambda line: None, fails).run(plan(*files))
    assert caught.value.code == "verification" and "0.5" in str(caught.value.why)
    assert fingerprint(environment) == before and environment.freeze() == frozen
    assert not environment.state.exists()


def test_a_replaced_version_comes_back(environment: Environment, files: tuple[Path, Path], tmp_path: Path) -> None:
    old = wheel(tmp_path / "old", "causal-conv1d", "1.5.2", files=5)
    subprocess.run([environment.python, "-m", "pip", "install", "-q", "--no-index", str(old)], check=True)
    before = fingerprint(environment)
    with pytest.raises(AnymambaError):
        Runner(environment, lambda line: None, fails).run(plan(*files))
    assert fingerprint(environment) == before
    assert environment.freeze()["causal-conv1d"] == "1.5.2"


def test_a_broken_copy_of_the_same_version_is_replaced(environment: Environment, files: tuple[Path, Path]) -> None:
    subprocess.run(
        [environment.python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", str(files[0])], check=True
    )
    module = environment.packages / "causal_conv1d" / "__init__.py"
    module.write_text("broken", "utf-8")
    result = Runner(environment, lambda line: None, passes).run(plan(*files))
    assert module.read_text("utf-8").startswith("version") and result.added == {"tiny-need": "2.0"}


def test_a_failing_compiler_changes_nothing_and_its_line_is_told(
    environment: Environment, files: tuple[Path, Path]
) -> None:
    before, kept = fingerprint(environment), records(environment.state)
    code = "print('[1/4] nvcc a.cu'); print('a.cu(3): error: identifier is undefined'); print('ninja: stopped'); raise SystemExit(1)"
    told: list[str] = []
    build = InstallStep("build", "compile causal-conv1d", (("{python}", "-c", code),), files=4)
    with pytest.raises(StepFailed) as caught:
        Runner(environment, told.append, passes).run(plan(*files, build=build))
    assert caught.value.why == "a.cu(3): error: identifier is undefined"
    assert any("1 of 4" in line or "1/4" in line for line in told)
    assert fingerprint(environment) == before and records(environment.state) == kept


def test_a_failing_build_does_not_wait_for_the_other_compilers(
    environment: Environment, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ninja tells a failure at once and then waits for what runs beside it."""
    monkeypatch.setattr(progress, "PATIENCE", 0.2)
    code = "print('FAILED: a.o'); print('a.cu(3): error: no such thing'); import time; time.sleep(60)"
    build = InstallStep("build", "compile causal-conv1d", (("{python}", "-c", code),), files=4)
    started = time.monotonic()
    with pytest.raises(StepFailed) as caught:
        Runner(environment, lambda line: None, passes).run(plan(*files, build=build))
    assert caught.value.why == "a.cu(3): error: no such thing" and time.monotonic() - started < 30


# waits for a file of its neighbour's: two such builds end only when they run at the same time
_NEIGHBOURS = """
import sys, time
from pathlib import Path
Path(sys.argv[1]).touch()
print("compiling", sys.argv[1])
end = time.monotonic() + 20
while not Path(sys.argv[2]).exists() and time.monotonic() < end:
    time.sleep(0.02)
raise SystemExit(not Path(sys.argv[2]).exists())
"""


def beside(code: str, *words: str) -> tuple[InstallStep, InstallStep]:
    first, second = words[:2], words[2:]
    return (
        InstallStep("build", "compile causal-conv1d", (("{python}", "-c", code, *first),), package="causal-conv1d", files=1),
        InstallStep("build", "compile mamba-ssm", (("{python}", "-c", code, *second),), package="mamba-ssm", files=1, beside=True),
    )


def test_builds_run_beside_each_other(environment: Environment, files: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    result = Runner(environment, lambda line: None, passes).run(plan(*files, builds=beside(_NEIGHBOURS, one, two, two, one)))
    log = result.log.read_text("utf-8")
    assert f"compiling {one}" in log and f"compiling {two}" in log


def test_a_failing_build_ends_the_one_beside_it(environment: Environment, files: tuple[Path, Path], tmp_path: Path) -> None:
    before = fingerprint(environment)
    code = "import sys, time; print(sys.argv[1] + '.cu(3): error: wrong') if sys.argv[1] == 'bad' else time.sleep(60); raise SystemExit(1)"
    started = time.monotonic()
    with pytest.raises(StepFailed) as caught:
        Runner(environment, lambda line: None, passes).run(plan(*files, builds=beside(code, "good", "", "bad", "")))
    assert time.monotonic() - started < 30
    assert caught.value.what == "this step failed: compile mamba-ssm" and caught.value.why == "bad.cu(3): error: wrong"
    assert fingerprint(environment) == before


@pytest.mark.slow  # the guard waits for one that may be putting things back
def test_one_install_at_a_time(environment: Environment, files: tuple[Path, Path]) -> None:
    lock = Lock(environment.state)
    assert lock.take(0.0)
    with pytest.raises(AnymambaError) as caught:
        Runner(environment, lambda line: None, passes).run(plan(*files))
    assert caught.value.code == "busy"
    lock.release()
    assert Lock(environment.state).take(0.0)


def test_a_dependency_that_would_replace_something_stops(
    environment: Environment, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """As torch would be: something installed stands against what is needed."""
    held = wheel(tmp_path / "held", "old-thing", "1.0")
    subprocess.run([environment.python, "-m", "pip", "install", "-q", "--no-index", str(held)], check=True)
    wheel(files[1], "old-thing", "2.0")
    before = fingerprint(environment)
    with pytest.raises(AnymambaError) as caught:
        Runner(environment, lambda line: None, passes).run(plan(*files, needs=("old-thing>=2.0",)))
    assert caught.value.code == "dependencies"
    assert fingerprint(environment) == before


_KILLED = """
import sys, time
from pathlib import Path
from tests.installer.test_run import plan
from anymamba.installer.environment import Environment
from anymamba.installer.run import Runner
def slow(packages):
    print("verifying", flush=True)
    time.sleep(60)
Runner(Environment(sys.argv[1]), lambda line: print(line, flush=True), slow).run(plan(Path(sys.argv[2]), Path(sys.argv[3])))
"""


@pytest.mark.parametrize(
    ("after", "delay", "how"),
    [
        ("install", 0.4, signal.SIGKILL),
        ("verifying", 0.0, signal.SIGKILL),
        pytest.param("verifying", 0.0, signal.SIGTERM, marks=pytest.mark.slow),
        *[
            pytest.param("install", tenths / 10, signal.SIGKILL, marks=pytest.mark.slow)
            for tenths in (0, 1, 2, 3, 5, 6, 8, 10, 12, 15)
        ],
        pytest.param("take the wheel", 0.1, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment(
    environment: Environment, files: tuple[Path, Path], after: str, delay: float, how: signal.Signals
) -> None:
    before, frozen = fingerprint(environment), environment.freeze()
    settings = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, environment.python, *map(str, files)],
        stdout=subprocess.PIPE,
        text=True,
        env=settings,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().endswith(after):
            break
    time.sleep(delay)
    process.send_signal(how)
    process.wait()
    deadline = time.monotonic() + 20
    while environment.state.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not environment.state.exists()
    assert fingerprint(environment) == before and environment.freeze() == frozen


# a compiler as ninja starts it: in a process group of its own, below the command that the install has started
_BUILD = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], process_group=0) if sys.version_info >= (3, 11) else (
    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], preexec_fn=os.setpgrp))
print('[1/4] nvcc a.cu', flush=True)
time.sleep(60)
"""
_KILLED_BUILD = """
import signal, sys
from pathlib import Path
from tests.installer.test_run import _BUILD, InstallStep, passes, plan
from anymamba.installer.environment import Environment
from anymamba.installer.run import Runner
build = InstallStep("build", "compile", (("{python}", "-c", _BUILD),), files=4)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
runner = Runner(Environment(sys.argv[1]), lambda line: print(line, runner.work, flush=True), passes)
runner.run(plan(Path(sys.argv[2]), Path(sys.argv[3]), build=build))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_build_leaves_no_compiler_and_no_folder(
    environment: Environment, files: tuple[Path, Path], how: signal.Signals
) -> None:
    before = fingerprint(environment)
    settings = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED_BUILD, environment.python, *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=settings,
    )
    assert process.stdout is not None
    work = next(line.split()[-1] for line in process.stdout if "1 of 4" in line or "1/4" in line)
    mark = f"{MARK}={work}".encode()
    # on a busy machine the compiler may start after the line that announces it
    deadline = time.monotonic() + 20
    while len(_members(None, mark)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(_members(None, mark)) == 2
    process.send_signal(how)
    process.wait()
    deadline = time.monotonic() + 20
    while (Path(work).exists() or _members(None, mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(work).exists() and not _members(None, mark)
    assert fingerprint(environment) == before and not environment.state.exists()


def test_a_power_cut_is_put_right_by_the_next_call(environment: Environment, files: tuple[Path, Path]) -> None:
    before = fingerprint(environment)
    rollback.begin(environment, [files[0]], [])
    (environment.packages / "causal_conv1d").mkdir()
    (environment.packages / "causal_conv1d" / "part0.py").write_text("half", "utf-8")
    (environment.packages / "~ausal_conv1d").mkdir()
    assert rollback.recover(environment)
    assert fingerprint(environment) == before and not environment.state.exists()
    assert (
        not (environment.packages / "causal_conv1d").exists() and not (environment.packages / "~ausal_conv1d").exists()
    )
    assert not rollback.recover(environment)


def test_out_of_disk_while_files_are_written(
    environment: Environment, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(environment)
    original = Runner.command

    def command(self: Runner, words: tuple[str, ...], settings: dict[str, str], step: InstallStep) -> None:
        if step.kind != "install":
            return original(self, words, settings, step)
        (environment.packages / "causal_conv1d").mkdir()
        (environment.packages / "causal_conv1d" / "part1.py").write_text("half of", "utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Runner, "command", command)
    with pytest.raises(OSError, match="No space left"):
        Runner(environment, lambda line: None, passes).run(plan(*files))
    assert fingerprint(environment) == before and not environment.state.exists()


def test_out_of_disk_before_anything_is_touched(
    environment: Environment, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(environment)

    def full(path: Path, document: Any) -> None:
        path.parent.mkdir()
        path.with_name("journal.json.new").write_text("{", "utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rollback, "write", full)
    with pytest.raises(OSError, match="No space left"):
        Runner(environment, lambda line: None, passes).run(plan(*files))
    assert fingerprint(environment) == before and not environment.state.exists()


def test_files_that_were_there_before_are_never_removed(environment: Environment, files: tuple[Path, Path]) -> None:
    mine = environment.packages / "causal_conv1d" / "__init__.py"
    mine.parent.mkdir()
    mine.write_text("mine", "utf-8")
    journal = rollback.begin(environment, [files[0]], [])
    assert str(mine) not in json.loads(journal.read_text("utf-8"))["files"]
    rollback.restore(journal)
    assert mine.read_text("utf-8") == "mine"
    mine.unlink()
    mine.parent.rmdir()
