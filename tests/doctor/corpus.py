"""The logs of tests/doctor/logs: NAME.txt is what a user pasted, NAME.json the causes that the doctor must name, first one first,
and words of the commands that the first finding must offer (commands) or must not (absent)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NamedTuple

from anymamba.doctor import diagnose_log
from anymamba.doctor.finding import Finding

LOGS = Path(__file__).resolve().parent / "logs"


class Case(NamedTuple):
    name: str
    log: bytes
    causes: list[str]
    commands: list[str]
    absent: list[str]


def cases() -> list[Case]:
    found = []
    for path in sorted(LOGS.glob("*.json")):
        log = path.with_suffix(".txt")
        expected = json.loads(path.read_text("utf-8"))
        found.append(
            Case(path.stem, log.read_bytes(), expected["causes"], expected.get("commands", []), expected.get("absent", []))
        )
    return found


def diagnose(log: bytes) -> list[Finding]:
    return diagnose_log(io.BytesIO(log), "log").findings


def names(log: bytes) -> list[str]:
    return [finding.cause for finding in diagnose(log)]
