"""Carries a plan out. Everything is collected in a work folder first; the environment changes in one short step at the end."""

from __future__ import annotations

import errno
import json
import os
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
from anymamba.installer.download import download, published_checksum
from anymamba.installer.environment import Environment
from anymamba.installer.machine import number
from anymamba.installer.progress import Progress, first_error
from anymamba.installer.releases import REPOSITORIES
from anymamba.installer.step import InstallStep, Plan
from anymamba.installer.undo import rollback
from anymamba.installer.undo.guard import MARK, Guard, end
from anymamba.language import _


class StepFailed(AnymambaError):
    """A command of the plan failed. line: the compiler's or pip's first line that says why."""


class FilesFailed(AnymambaError, OSError):
    """A file could not be read or written: a full disk, a missing permission."""


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
        self._running: set[int] = set()
        folder = cache_folder() / "install-logs"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / time.strftime(f"install-%Y%m%d-%H%M%S-{os.getpid()}.log")

    def run(self, plan: Plan) -> Result:
        """Raises AnymambaError after having put everything back; download.NotPublished when a wheel is not there."""
        self.work = Path(tempfile.mkdtemp(prefix="anymamba-install-"))
        journal = self.environment.state / rollback.JOURNAL
        try:
            self.guard = Guard(self.environment.state, self.work)
        except BaseException:
            shutil.rmtree(self.work, ignore_errors=True)
            raise
        try:
            return self._run(plan, journal)
        except AnymambaError:
            raise
        except OSError as error:
            raise FilesFailed(
                "files",
                _("a file could not be written or read; the environment is as it was before"),
                str(error),
                _room() if error.errno in (errno.ENOSPC, errno.EDQUOT) else None,
            ) from error
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
            self.guard.close(done=not journal.exists())

    def _run(self, plan: Plan, journal: Path) -> Result:
        rollback.recover(self.environment)
        for folder in ("wheels", "temporary"):
            (self.work / folder).mkdir()
        before = self.environment.freeze()
        self._fit_for_use(before)
        self._note("\n".join(plan.found))
        packages = [choice.package for choice in plan.packages]
        for steps in _together(plan.steps):
            for step in steps:
                self._announce(plan, step)
            if len(steps) == 1:
                self._prepare(steps[0], before, packages)
            else:
                self._beside_each_other(steps)
        return self._install(plan, before, packages, journal)

    def _announce(self, plan: Plan, step: InstallStep) -> None:
        self.tell(f"[{plan.steps.index(step) + 1}/{len(plan.steps)}] {step.title}")

    def _fit_for_use(self, before: dict[str, str]) -> None:
        if number(before.get("pip")) < (22, 2):
            raise AnymambaError(
                "pip",
                _("pip {version} is too old for this").format(version=before.get("pip")),
                None,
                f"{self.environment.python} -m pip install --upgrade pip",
            )
        if not os.access(self.environment.packages, os.W_OK):
            # pip would install into the user's own folder instead, beside this environment
            raise AnymambaError(
                "permission",
                _("{packages} cannot be written to").format(packages=self.environment.packages),
                None,
                _("work in an environment of your own: python -m venv"),
            )

    def _prepare(self, step: InstallStep, before: dict[str, str], packages: list[str]) -> None:
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
            self._commands(step, self.log)

    def _commands(self, step: InstallStep, log: Path) -> None:
        for name in ("nvcc_one_architecture.py", "edit_for_msvc.py"):
            shutil.copy2(Path(__file__).with_name(name), self.work)
        for command in step.commands:
            self.command(command, step.environment, step, log)

    def _beside_each_other(self, steps: list[InstallStep]) -> None:
        """Builds at the same time, each with a log of its own that is appended at its end. The first failure ends the others."""
        failures: list[BaseException] = []
        lock = threading.Lock()

        def build(step: InstallStep) -> None:
            own = self.work / f"{step.package}.log"
            try:
                self._commands(step, own)
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
                with lock:
                    failures.append(error)
                self._end_all()
            finally:
                with lock:
                    self._note(own.read_text("utf-8", "replace") if own.exists() else "")

        threads = [threading.Thread(target=build, args=(step,)) for step in steps]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._end_all()
            for thread in threads:
                thread.join()
            raise
        if failures:
            raise failures[0]

    def _end_all(self) -> None:
        for child in [*self._running, None]:
            end(child, self.work)

    def _download(self, step: InstallStep) -> None:
        assert step.address is not None and step.package is not None
        name = step.address.rsplit("/", 1)[1].replace("%2B", "+")
        tag = step.address.split("/")[-2]
        checksum = published_checksum(REPOSITORIES[step.package], tag, name)
        self.tell(
            _("  checked against the published SHA-256")
            if checksum
            else _("  no checksum is published; the archive itself is checked")
        )
        shown = [0.0]

        def progress(have: int, total: int) -> None:
            if time.monotonic() - shown[0] > 5 or have == total:
                shown[0] = time.monotonic()
                self.tell(f"  {have / 1e6:.0f}/{total / 1e6:.0f} MB")

        # what has arrived is kept when this is interrupted, and the next call goes on from there
        path = download(step.address, cache_folder() / "install-downloads", checksum=checksum, progress=progress)
        shutil.move(path, self.work / "wheels")

    def _dependencies(self, step: InstallStep) -> None:
        try:
            self.command(step.commands[0], {}, step)
        except StepFailed as error:
            raise AnymambaError(
                "dependencies",
                _(
                    "what the packages need cannot be had without replacing something that is installed; nothing was "
                    "changed"
                ),
                error.why,
            ) from error
        report = json.loads((self.work / "needed.json").read_text("utf-8"))
        requirements = [f"{item['metadata']['name']}=={item['metadata']['version']}" for item in report["install"]]
        if requirements:
            self.command((*step.commands[1][:-1], *requirements), {}, step)

    def _install(self, plan: Plan, before: dict[str, str], packages: list[str], journal: Path) -> Result:
        wheels = sorted((self.work / "wheels").glob("*.whl"))
        step = next(item for item in plan.steps if item.kind == "install")
        self._announce(plan, step)
        try:
            rollback.begin(self.environment, wheels, [name for name in packages if name in before])
            self.command((*step.commands[0][:-1], *map(str, wheels)), {}, step)
            after = self.environment.freeze()
            self._nothing_else_changed(before, after, packages)
            self._announce(plan, next(item for item in plan.steps if item.kind == "verify"))
            checks = self.verify(packages)
            if not checks["ok"]:
                raise AnymambaError(
                    "verification",
                    _("the installed package does not pass its check; the environment was put back"),
                    "; ".join(f"{item['name']}: {item['text']}" for item in checks["checks"] if not item["ok"]),
                )
            rollback.finish(self.environment, before, after)
        except BaseException:
            if journal.exists():
                rollback.restore(journal)
            rollback.sweep(journal.parent)
            raise
        added = {name: version for name, version in after.items() if name not in before}
        replaced = {
            name: (before[name], after[name])
            for name in packages
            if before.get(name, after.get(name)) != after.get(name)
        }
        return Result(added, replaced, checks, self.log)

    def _nothing_else_changed(self, before: dict[str, str], after: dict[str, str], packages: list[str]) -> None:
        differing = [name for name, version in before.items() if name not in packages and after.get(name) != version]
        if differing:
            raise AnymambaError(
                "changed",
                _("the install would have changed {packages}; the environment was put back").format(
                    packages=", ".join(f"{name} {before[name]} -> {after.get(name)}" for name in differing)
                ),
            )

    def _verify(self, packages: list[str]) -> dict[str, Any]:
        command = [self.environment.python, "-m", "anymamba.installer.verify", "--json", *packages]
        done = subprocess.run(command, capture_output=True, text=True)
        self._note("$ {}\n{}{}".format(" ".join(command), done.stdout, done.stderr))
        for line in reversed(done.stdout.splitlines()):
            if line.startswith("{"):
                return dict(json.loads(line))
        text = (done.stderr.strip() or f"exit code {done.returncode}")[-400:]
        return {"ok": False, "gpu": False, "checks": [{"name": ", ".join(packages), "ok": False, "text": text}]}

    def command(self, words: tuple[str, ...], environment: dict[str, str], step: InstallStep, into: Path | None = None) -> None:
        """Runs one command with its output in the log (or in another file) and its progress told; raises StepFailed."""
        filled = [self._fill(word) for word in words]
        process_options = {"start_new_session": True} if sys.platform != "win32" else {}
        with open(into or self.log, "ab", buffering=0) as log:
            start = log.tell()
            log.write("$ {}\n".format(" ".join(filled)).encode())
            process = subprocess.Popen(
                filled,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._settings(environment),
                **process_options,  # type: ignore[call-overload]
            )
            self._running.add(process.pid)
            self.guard.tell(f"child {process.pid}")
            watch = Progress(self.tell, step, lambda: end(process.pid, self.work))
            try:
                for line in process.stdout:
                    log.write(line)
                    watch.see(line.decode("utf-8", "replace"))
                code = process.wait()
            except BaseException:
                end(process.pid, self.work)
                process.wait()
                raise
            finally:
                watch.close()
                self._running.discard(process.pid)
                self.guard.tell(f"ended {process.pid}")
        if code:
            raise StepFailed(
                "step",
                _("this step failed: {title}").format(title=step.title),
                first_error(into or self.log, start),
                _("the whole log: {log}").format(log=self.log),
            )

    def _settings(self, environment: dict[str, str]) -> dict[str, str]:
        """The environment variables of a command; what it leaves for a while lies in the work folder, which goes at the end."""
        values = {name: self._fill(value) for name, value in environment.items()}
        values.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.work / "temporary")))
        values[MARK] = str(self.work)
        if "PATH" in values:
            values["PATH"] += os.pathsep + os.environ.get("PATH", "")
        return dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PYTHONUNBUFFERED="1", **values)

    def _note(self, text: str) -> None:
        with open(self.log, "ab") as log:
            log.write((text.rstrip() + "\n").encode("utf-8"))

    def _fill(self, word: str) -> str:
        return word.replace("{work}", str(self.work)).replace("{python}", self.environment.python)


def _together(steps: tuple[InstallStep, ...]) -> list[list[InstallStep]]:
    """The steps before the environment is touched, those that run beside each other in one list."""
    groups: list[list[InstallStep]] = []
    for step in steps:
        if step.kind in ("install", "verify"):
            continue
        if step.beside:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _room() -> str:
    return _("free some space, or point TMPDIR to another disk")
