"""The pages of docs/*/errors: found by the literal words of an error, which stand in them as headings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from anymamba.doctor import page, rules

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "tests" / "doctor" / "logs"
LINES = {rule.cause: page.read(rule.package, "en").lines for rule in rules.all_rules()}


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_every_line_stands_in_a_log_of_its_cause() -> None:
    """Run `python scripts/collect_error_lines.py && python -m anymamba.doctor.explain docs` after logs have changed."""
    logs: dict[str, str] = {}
    for path in LOGS.glob("*.json"):
        log = squeezed(path.with_suffix(".txt").read_bytes().decode("utf-8", "replace"))
        for cause in json.loads(path.read_text("utf-8"))["causes"]:
            logs[cause] = logs.get(cause, "") + "\n" + log
    wrong = [(cause, line) for cause, lines in LINES.items() for line in lines if line not in logs.get(cause, "")]
    assert wrong == []


def test_most_causes_have_lines_and_none_has_many() -> None:
    assert sum(map(bool, LINES.values())) > 0.85 * len(LINES)
    assert all(len(lines) <= 6 and len(set(lines)) == len(lines) for lines in LINES.values())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_lines_are_headings_and_the_index_has_them_all(language: str) -> None:
    folder = ROOT / "docs" / language / "errors"
    index = (folder / "README.md").read_text("utf-8")
    for rule in rules.all_rules():
        text = (folder / f"{rule.code}.md").read_text("utf-8")
        assert f"[{rule.code}]({rule.code}.md)" in index
        for line in LINES[rule.cause]:
            assert re.search(r"^### `+ ?" + re.escape(line) + r" ?`+$", text, re.M), (rule.code, line)
            assert line in index


def test_the_index_is_in_the_navigation() -> None:
    assert "errors/README.md" in (ROOT / "mkdocs.yml").read_text("utf-8")
