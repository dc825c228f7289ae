"""Other programs, asked with a time limit; a failure is an answer too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional


class Answer(NamedTuple):
    """error: why there is no answer, None when there is one."""

    output: str
    error: Optional[str]

    @property
    def first_line(self) -> str:
        return self.output.strip().split("\n")[0].strip()


def ask(command: List[str], seconds: float = 4.0, environment: Optional[Dict[str, str]] = None) -> Answer:
    """Runs the command; its standard error is added to the output."""
    settings = dict(os.environ, LC_ALL="C", **(environment or {}))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            env=settings,
            check=False,
        )
    except FileNotFoundError:
        return Answer("", "{}: not found".format(command[0]))
    except subprocess.TimeoutExpired:
        return Answer("", "{}: no answer within {:.0f} s".format(os.path.basename(command[0]), seconds))
    except OSError as error:
        return Answer("", "{}: {}".format(command[0], error))
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode < 0:
        return Answer(output, "crashed with signal {}".format(-done.returncode))
    if done.returncode:
        return Answer(
            output, output.strip().split("\n")[-1] if output.strip() else "exit code {}".format(done.returncode)
        )
    return Answer(output, None)


MARK = "anymamba-doctor:"


def ask_python(code: str, seconds: float) -> Dict[str, Any]:
    """Runs code in a fresh interpreter like this one; it prints MARK and a JSON object on a line. {"error": ...} without one.

    A torch that crashes at import, hangs or prints to stdout harms only that interpreter.
    """
    answer = ask([sys.executable, "-c", code], seconds, {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"})
    for line in reversed(answer.output.split("\n")):
        if line.startswith(MARK):
            result = json.loads(line[len(MARK) :])
            if answer.error and "error" not in result:
                result["crash"] = answer.error
            return dict(result)
    return {"error": answer.error or "no answer", "output": answer.output[-2000:]}
