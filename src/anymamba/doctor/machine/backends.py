"""Which of anymamba's backends work here: asked from `python -m anymamba backends --json`, in another process."""

from __future__ import annotations

import json
import sys
from typing import Any, Dict

from anymamba.doctor.machine.command import ask


def gather(seconds: float) -> Dict[str, Any]:
    """{"ops": {op: {backend: {"ok", "reason", "chosen"}}}} or {"error": why there is no answer}."""
    answer = ask([sys.executable, "-m", "anymamba", "backends", "--json"], seconds)
    start = answer.output.find("{")
    if start >= 0:
        try:
            document, _ = json.JSONDecoder().raw_decode(answer.output[start:])
        except ValueError:
            document = None
        if isinstance(document, dict) and "ops" in document:
            return dict(document)
    return {"error": answer.error or answer.first_line or "no answer"}


def chosen(facts: Dict[str, Any]) -> Dict[str, str]:
    """Op to the backend that computes it."""
    return {
        op: next((name for name, entry in table.items() if entry.get("chosen")), "-")
        for op, table in facts.get("ops", {}).items()
    }
