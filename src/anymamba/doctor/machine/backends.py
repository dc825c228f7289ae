"""Which of anymamba's backends work here: what `anymamba backends --json` says, asked in another process."""

from __future__ import annotations

from typing import Any, Dict

PROBE = """
import contextlib, io
from anymamba.cli import main
text = io.StringIO()
with contextlib.redirect_stdout(text):
    main(["backends", "--json"])
facts = json.loads(text.getvalue()[text.getvalue().find("{"):])
tell("backends", {"ops": facts["ops"]})
"""


def chosen(facts: Dict[str, Any]) -> Dict[str, str]:
    """Op to the backend that computes it."""
    return {
        op: next((name for name, entry in table.items() if entry.get("chosen")), "-")
        for op, table in facts.get("ops", {}).items()
    }
