"""Carries a plan out. Everything is collected in a work folder first; the environment changes in one short step at the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anymamba.cachefolder import cache_folder
from anymamba.errors import AnymambaError
from anymamba.installer import rollback
from anymamba.installer.download import download, published_checksum
from anymamba.installer.environment import Environment
from anymamba.installer.guard import Guard, end
from anymamba.installer.machine import number
from anymamba.installer.releases import REPOSITORIES
from anymamba.installer.step import Plan, Step
from anymamba.installer.wheels import GITHUB
from anymamba.language import say

# seconds between two lines of progress while nothing new is known
HEARTBEAT = 30.0
_COMPILED = re.compile(r"^\s*\[(\d+)/(\d+)\]")
_COMPILER_ERROR = re.compile(r"error:|fatal error|fatal\s*:|error C\d{4}|ninja: error|Killed\b|No space left on device")


class StepFailed(AnymambaError):
    """A command of the plan failed. line: the compiler's or pip's first line that says why."""


@dataclass
class Result:
    added: dict[str, str]
    replaced: dict[str, tuple[str, str]]
    checks: dict[str, Any]
    log: Path


class Runner:
    """environment: what is installed into. tell: takes a line of progress. verify: packages -> see verify.verify."""

    def __init__(
        self,
        environment: Environment,
        tell: Callable[[str], None],
        verify: Callable[[list[str]], dict[str, Any]] | None = None,
    ) -> None:
        self.environment, self.tell = environment, tell
        self.verify = verify or self._verify
        folder = cache_folder() / "install-logs"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / time.strftime(f"install-%Y%m%d-%H%M%S-{os.getpid()}.log")
        self.guard: Guard | None = None

    def run(self, plan: Plan) -> Result:
        """Raises AnymambaError after having put everything back; download.NotPublished when a wheel is not there."""
        rollback.recover(self.environment)
        self.work = Path(tempfile.mkdtemp(prefix="anymamba-install-"))
        (self.work / "wheels").mkdir()
        try:
            return self._run(plan)
        finally:
            shutil.rmtree(self.work, ignore_errors=True)

    def _run(self, plan: Plan) -> Result:
        before = self.environment.freeze()
        if number(before.get("pip")) < (22, 2):
            raise AnymambaError(
                "pip",
                say("pip {} is too old for this", "pip {} 版本过旧").format(before.get("pip")),
                None,
                f"{self.environment.python} -m pip install --upgrade pip",
            )
        packages = [choice.package for choice in plan.packages]
        for position, step in enumerate(plan.steps, 1):
            if step.kind in ("install", "verify"):
                continue
            self.tell(f"[{position}/{len(plan.steps)}] {step.title}")
            self._prepare(step, plan, before, packages)
        return self._install(plan, before, packages)

    def _prepare(self, step: Step, plan: Plan, before: dict[str, str], packages: list[str]) -> None:
        """One step before the environment is touched."""
        if step.kind == "constraints":
            pins = [f"{name}=={version}" for name, version in before.items() if name not in packages]
            (self.work / "constraints.txt").write_text("\n".join(pins) + "\n", "utf-8")
        elif step.kind == "download":
            self._download(step)
        elif step.kind == "local":
            assert step.address is not None
            shutil.copy2(step.address, self.work / "wheels")
        elif step.kind == "dependencies":
            self._dependencies(step)
        else:
            for name in ("nvcc_one_architecture.py", "edit_for_msvc.py"):
                shutil.copy2(Path(__file__).with_name(name), self.work)
            for command in step.commands:
                self.command(command, step.environment, step, plan)

    def _download(self, step: Step) -> None:
        assert step.address is not None and step.package is not None
        name = step.address.rsplit("/", 1)[1].replace("%2B", "+")
        tag = step.address.split("/")[-2]
        checksum = (
            published_checksum(REPOSITORIES[step.package], tag, name) if step.address.startswith(GITHUB) else None
        )
        self.tell(
            say("  checked against the published SHA-256", "  将与公布的 SHA-256 核对")
            if checksum
            else say(
                "  no checksum is published; the archive itself is checked", "  未公布校验和；将检查文件自身的完整性"
            )
        )
        shown = [0.0]

        def progress(have: int, total: int) -> None:
            if time.monotonic() - shown[0] > 5 or have == total:
                shown[0] = time.monotonic()
                self.tell(f"  {have / 1e6:.0f}/{total / 1e6:.0f} MB")

        download(step.address, self.work / "wheels", checksum=checksum, progress=progress)

    def _dependencies(self, step: Step) -> None:
        try:
            self.command(step.commands[0], {}, step, None)
        except StepFailed as error:
            raise AnymambaError(
                "dependencies",
                say(
                    "what the packages need cannot be had without replacing something that is installed; nothing was changed",
                    "不替换已安装的包就无法满足依赖；未做任何更改",
                ),
                error.why,
            ) from error
        report = json.loads((self.work / "needed.json").read_text("utf-8"))
        wanted = [f"{item['metadata']['name']}=={item['metadata']['version']}" for item in report["install"]]
        if wanted:
            self.command((*step.commands[1][:-1], *wanted), {}, step, None)

    def _install(self, plan: Plan, before: dict[str, str], packages: list[str]) -> Result:
        wheels = sorted((self.work / "wheels").glob("*.whl"))
        step = next(item for item in plan.steps if item.kind == "install")
        self.tell(step.title)
        journal = self.environment.state / rollback.JOURNAL
        self.guard = Guard(journal)
        try:
            rollback.begin(self.environment, wheels, [name for name in packages if name in before])
            self.command((*step.commands[0][:-1], *map(str, wheels)), {}, step, None)
            after = self.environment.freeze()
            self._nothing_else_changed(before, after, packages)
            self.tell(next(item.title for item in plan.steps if item.kind == "verify"))
            checks = self.verify(packages)
            if not checks["ok"]:
                raise AnymambaError(
                    "verification",
                    say(
                        "the installed package does not pass its check; the environment was put back",
                        "安装的包未通过检查；环境已恢复原状",
                    ),
                    "; ".join(f"{item['name']}: {item['text']}" for item in checks["checks"] if not item["ok"]),
                )
            rollback.finish(self.environment, before, after)
        except BaseException:
            if journal.exists():
                rollback.restore(journal)
            rollback.sweep(journal.parent)
            raise
        finally:
            self.guard.done()
            self.guard = None
        added = {name: version for name, version in after.items() if name not in before}
        replaced = {
            name: (before[name], after[name])
            for name in packages
            if before.get(name, after.get(name)) != after.get(name)
        }
        return Result(added, replaced, checks, self.log)

    def _nothing_else_changed(self, before: dict[str, str], after: dict[str, str], packages: list[str]) -> None:
        changed = [name for name, version in before.items() if name not in packages and after.get(name) != version]
        if changed:
            raise AnymambaError(
                "changed",
                say(
                    "the install would have changed {}; the environment was put back", "安装会改变 {}；环境已恢复原状"
                ).format(", ".join(f"{name} {before[name]} -> {after.get(name)}" for name in changed)),
            )

    def _verify(self, packages: list[str]) -> dict[str, Any]:
        command = [self.environment.python, "-m", "anymamba.installer.verify", "--json", *packages]
        done = subprocess.run(command, capture_output=True, text=True)
        for line in reversed(done.stdout.splitlines()):
            if line.startswith("{"):
                return dict(json.loads(line))
        text = (done.stderr.strip() or f"exit code {done.returncode}")[-400:]
        return {"ok": False, "gpu": False, "checks": [{"name": ", ".join(packages), "ok": False, "text": text}]}

    def command(self, words: tuple[str, ...], environment: dict[str, str], step: Step, plan: Plan | None) -> None:
        """Runs one command with its output in the log and its progress told; raises StepFailed."""
        values = {name: self._fill(value) for name, value in environment.items()}
        settings = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PYTHONUNBUFFERED="1", **values)
        if "PATH" in values:
            settings["PATH"] = values["PATH"] + os.pathsep + os.environ.get("PATH", "")
        filled = [self._fill(word) for word in words]
        apart = {"start_new_session": True} if sys.platform != "win32" else {}
        started, first = time.monotonic(), self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            log.write("$ {}\n".format(" ".join(filled)).encode())
            process = subprocess.Popen(
                filled,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=settings,
                **apart,  # type: ignore[call-overload]
            )
            if self.guard:
                self.guard.tell(f"child {process.pid}")
            stop = threading.Event()
            watch = _Progress(self.tell, step, plan, started)
            threading.Thread(target=watch.beat, args=(stop,), daemon=True).start()
            try:
                for line in process.stdout:
                    log.write(line)
                    watch.see(line.decode("utf-8", "replace"))
                code = process.wait()
            except BaseException:
                end(process.pid)
                process.wait()
                raise
            finally:
                stop.set()
                if self.guard:
                    self.guard.tell(f"ended {process.pid}")
        if code:
            raise StepFailed(
                "step",
                say("{} failed (exit code {})", "{} 失败（退出码 {}）").format(step.title, code),
                _first_error(self.log, first),
                say("the whole log: {}", "完整日志：{}").format(self.log),
            )

    def _fill(self, word: str) -> str:
        return word.replace("{work}", str(getattr(self, "work", ""))).replace("{python}", self.environment.python)


class _Progress:
    """Turns ninja's [3/10] into lines for a person."""

    def __init__(self, tell: Callable[[str], None], step: Step, plan: Plan | None, started: float) -> None:
        self.tell, self.step, self.plan, self.started = tell, step, plan, started
        self.done, self.total = 0, step.files

    def see(self, line: str) -> None:
        found = _COMPILED.match(line)
        if found and self.step.kind == "build" and int(found.group(1)) > self.done:
            self.done, self.total = int(found.group(1)), int(found.group(2))
            self.say_so()

    def beat(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT):
            if self.step.kind == "build":
                self.say_so()

    def say_so(self) -> None:
        elapsed = int(time.monotonic() - self.started)
        text = say("  {} of {} files, {}:{:02d} elapsed", "  {}/{} 个文件，已用 {}:{:02d}").format(
            self.done, self.total, elapsed // 60, elapsed % 60
        )
        if self.plan:
            text += say(", expected {:.0f} to {:.0f} minutes in all", "，预计共 {:.0f} 到 {:.0f} 分钟").format(
                *self.plan.minutes
            )
        self.tell(text)


def _first_error(log: Path, start: int) -> str | None:
    """The first line after start that names an error, else the last line: wrappers only repeat it further down."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()[1:]
    named = next((line.strip() for line in lines if _COMPILER_ERROR.search(line)), None)
    return named or next((line.strip() for line in reversed(lines) if line.strip()), None)
