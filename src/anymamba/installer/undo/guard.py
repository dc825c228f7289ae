"""A process beside an install: when the install is killed, it ends what that has started and puts everything back.

It reads lines from the install: "child PID" (a command has begun), "ended PID", "done". The end of the lines without "done" is a
death. It holds the environment's lock, so that no other install begins before everything is back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.installer.undo import rollback
from anymamba.installer.undo.lock import Lock
from anymamba.language import _


class Guard:
    """Kept by the install from its first to its last moment. work: the folder in which everything is collected."""

    def __init__(self, state: Path, work: Path) -> None:
        """Raises AnymambaError ("busy") when another install or uninstall is going on in this environment."""
        source = str(Path(__file__).resolve().parents[3])
        environment = dict(
            os.environ, PYTHONPATH=os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        )
        process_options: dict[str, Any] = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}  # type: ignore[attr-defined]
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "anymamba.installer.undo.guard", str(state), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            **process_options,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != b"ready":
            self._process.communicate()
            raise busy()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode("ascii") + b"\n")
        self._process.stdin.flush()

    def close(self, done: bool) -> None:
        """done: nothing is left to put back; else the guard does it now, as if the install had been killed."""
        with contextlib.suppress(BrokenPipeError):
            if done:
                self.tell("done")
        self._process.communicate()


def busy() -> AnymambaError:
    return AnymambaError(
        "busy",
        _("another anymamba install or uninstall is going on in this environment"),
        None,
        _("wait until it has ended, then try again"),
    )


MARK = "ANYMAMBA_INSTALL_WORK"


def end(child: int | None, work: Path) -> None:
    """Ends a command with everything that it has started; returns when none of it is left. Commands have MARK=work set."""
    if sys.platform == "win32":
        if child is not None:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(child)], capture_output=True)
        return
    mark = f"{MARK}={work}".encode()
    deadline = time.monotonic() + 10.0
    while (members := _members(child, mark)) and time.monotonic() < deadline:  # none may write after it was put back
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _members(child: int | None, mark: bytes) -> list[int]:
    """The living processes of a command. Its process group is too little: ninja puts every compiler into one of its own."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # it may have ended meanwhile, or be somebody else's
            # pid (name) state ppid pgrp session ...; the name may hold anything
            state, _, _, session = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:4]
            if state not in "ZX" and (int(session) == child or mark in (folder / "environ").read_bytes().split(b"\0")):
                members.append(int(folder.name))
    # without /proc (macOS) only the group can be asked
    if sys.platform != "win32" and not members and child is not None and not Path("/proc/self/stat").exists():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, 0)
            members = [-child]
    return members


def main(state: Path, work: Path) -> None:
    lock = Lock(state)
    if not lock.take():
        print("busy", flush=True)
        return
    print("ready", flush=True)
    children: list[int] = []
    for line in sys.stdin:
        word, _, value = line.strip().partition(" ")
        if word == "child":
            children.append(int(value))
        elif word == "ended":
            children.remove(int(value))
        elif word == "done":
            return
    for child in [*children, None]:  # None: one that has begun a moment ago and was not told yet
        end(child, work)
    journal = state / rollback.JOURNAL
    if journal.exists():
        rollback.restore(journal)
    rollback.sweep(state)
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
