"""Other programs, asked with a time limit that all of them share; a failure is an answer too, and so is that there was no time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, NamedTuple, Optional

MARK = "anymamba-doctor:"
# of what a program prints, this much is read
MOST_OUTPUT = 4_000_000


def age() -> float:
    """Seconds since this process was started, 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0.0
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            started = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            return max(0.0, float(file.read().split()[0]) - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):  # no Linux, or one that hides it
        return 0.0


class Answer(NamedTuple):
    """error: why there is no answer, None when there is one; late: because the time was over, which says nothing about the program."""

    output: str
    error: Optional[str]
    late: bool = False

    @property
    def first_line(self) -> str:
        return self.output.strip().split("\n")[0].strip()


class Budget:
    """Seconds that all questions together may take, from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def ask(self, command: List[str], environment: Optional[Dict[str, str]] = None) -> Answer:
        """Runs the command; its standard error is added to the output."""
        settings = dict(os.environ, LC_ALL="C", **(environment or {}))
        # into a file: a pipe would stay open as long as any process that the command has started
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=settings,
                    start_new_session=True,
                )
            except FileNotFoundError:
                return Answer("", "{}: not found".format(command[0]))
            except OSError as error:
                return Answer("", "{}: {}".format(command[0], error))
            late = False
            try:
                code = process.wait(self.left)
            except subprocess.TimeoutExpired:
                late, code = True, 0
            finally:
                _end(process)
            output.seek(0)
            text = output.read(MOST_OUTPUT).decode("utf-8", "replace")
        if late:
            return Answer(text, "{}: no answer within {:g} s".format(os.path.basename(command[0]), self.seconds), True)
        if code < 0:
            return Answer(text, "crashed with signal {}".format(-code))
        if code:
            return Answer(text, text.strip().split("\n")[-1] if text.strip() else "exit code {}".format(code))
        return Answer(text, None)

    def ask_python(self, code: str) -> "Stages":
        """Runs code in a fresh interpreter like this one, which prints MARK and a JSON object on a line for each of its stages.

        A torch that crashes at import, hangs or prints to stdout harms only that interpreter, and what was printed before stays.
        """
        quiet = {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
        answer = self.ask([sys.executable, "-c", code], quiet)
        results: Dict[str, Any] = {}
        for line in answer.output.split("\n"):
            if line.startswith(MARK):
                # a line that was being written when the time was over
                with contextlib.suppress(ValueError):
                    results.update(json.loads(line[len(MARK) :]))
        return Stages(results, answer)


class Stages(NamedTuple):
    """results: name of a stage to what it told; answer: how the process ended, which is the matter of the first stage without result."""

    results: Dict[str, Any]
    answer: Answer


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process that still runs, with all that it has started; of one that has ended, the number may be another's by now."""
    if process.poll() is not None:
        return
    # the process may have ended a moment ago
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
