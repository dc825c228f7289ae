"""A process beside an install: when the install is killed, it ends pip and puts the environment back.

It reads lines from the install: "child PID" (pip has begun), "done". The end of the lines without "done" is a death.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from anymamba.installer import rollback


class Guard:
    """Kept by the install. Start this first, then write the journal, then change the environment."""

    def __init__(self, journal: Path) -> None:
        source = str(Path(__file__).resolve().parents[2])
        environment = dict(
            os.environ, PYTHONPATH=os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        )
        apart = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}  # type: ignore[attr-defined]
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "anymamba.installer.guard", str(journal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            **apart,  # type: ignore[call-overload]
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it is ready

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode("ascii") + b"\n")
        self._process.stdin.flush()

    def done(self) -> None:
        self.tell("done")
        self._process.communicate()


def end(child: int) -> None:
    """Ends pip with everything that it has started."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(child)], capture_output=True)
        return
    with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
        os.killpg(child, signal.SIGKILL)
        for _ in range(100):  # it must not write a file after it was put back
            os.kill(child, 0)
            time.sleep(0.02)


def main(journal: Path) -> None:
    pid = journal.parent / "guard.pid"
    journal.parent.mkdir(parents=True, exist_ok=True)
    pid.write_text(str(os.getpid()), "ascii")
    print("ready", flush=True)
    children: list[int] = []
    for line in sys.stdin:
        word, _, value = line.strip().partition(" ")
        if word == "child":
            children.append(int(value))
        elif word == "ended":
            children.remove(int(value))
        elif word == "done":
            break
    else:
        for child in children:
            end(child)
        if journal.exists():
            rollback.restore(journal)
        rollback.sweep(journal.parent)
    pid.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it stays where a record was written
        journal.parent.rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
