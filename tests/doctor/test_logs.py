"""Every log of the corpus gets its causes, also after what terminals, editors and containers do to a log."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from anymamba.doctor import reading, rules
from tests.doctor.corpus import LOGS, Case, cases, diagnose, names

CASES = cases()
IDS = [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_causes(case: Case) -> None:
    findings = diagnose(case.log)
    found = [finding.cause for finding in findings]
    assert found[0] == case.causes[0], found
    assert set(case.causes) <= set(found), found
    if case.causes == ["unknown"]:
        assert all(finding.confidence == "none" for finding in findings), found


@pytest.mark.parametrize("case", [case for case in CASES if case.commands or case.absent], ids=lambda case: case.name)
def test_commands(case: Case) -> None:
    offered = "\n".join(command for step in diagnose(case.log)[0].remedies for command in step.commands)
    assert [words for words in case.commands if words not in offered] == [], offered
    assert [words for words in case.absent if words in offered] == [], offered


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_evidence_is_in_the_log(case: Case) -> None:
    text = case.log.decode("utf-8")
    lines = text.split("\n")
    for finding in diagnose(case.log):
        if finding.cause != "unknown":
            assert finding.evidence, finding.cause
        for item in finding.evidence:
            assert item.text.removeprefix("... ")[:40] in lines[item.line - 1], item


def test_every_rule_has_a_log() -> None:
    shown = {cause for case in CASES for cause in case.causes}
    assert {rule.cause for rule in rules.all_rules()} - shown == set()


def test_every_log_has_its_expectation_and_knows_its_causes() -> None:
    assert {path.stem for path in LOGS.glob("*.txt")} == set(IDS)
    known = set(rules.by_name())
    assert {cause for case in CASES for cause in case.causes} <= known


def test_corpus_of_public_threads() -> None:
    """Texts collected after the rules for them were named, with the commands that they ask for."""
    threads = [case for case in CASES if case.name.startswith("thread_")]
    assert len(threads) >= 60
    assert sum(bool(case.commands or case.absent) for case in threads) >= 40


def test_two_causes_in_one_log_are_both_found_in_most_logs() -> None:
    # held per log in test_causes; here: that the corpus has enough of them to say something
    assert sum(len(case.causes) > 1 for case in CASES) >= 20


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("utf-8")


def utf16(text: str) -> bytes:
    return b"\xff\xfe" + text.replace("\n", "\r\n").encode("utf-16-le")


def utf16_without_mark(text: str) -> bytes:
    return text.encode("utf-16-be")


def gbk(text: str) -> bytes:
    return text.encode("gb18030")


def coloured(text: str) -> bytes:
    return "\n".join("\x1b[31m" + line[:7] + "\x1b[1;36m" + line[7:] + "\x1b[0m" for line in text.split("\n")).encode(
        "utf-8"
    )


def quoted(text: str) -> bytes:
    return "\n".join("> " + line for line in text.split("\n")).encode("utf-8")


def docker(text: str) -> bytes:
    return "\n".join(f"#9 {12 + number / 10:.1f} {line}" for number, line in enumerate(text.split("\n"))).encode(
        "utf-8"
    )


def indented(text: str) -> bytes:
    return "\n".join("  │       " + line for line in text.split("\n")).encode("utf-8")


def ci_stamps(text: str) -> bytes:
    return "\n".join("2026-03-01T10:11:12.1234567Z " + line for line in text.split("\n")).encode("utf-8")


def wrapped(text: str) -> bytes:
    """Lines broken at blanks, as uv and editors do."""
    lines = []
    for line in text.split("\n"):
        while len(line) > 78 and " " in line[40:78]:
            cut = line.rindex(" ", 40, 78)
            lines.append(line[:cut])
            line = "      " + line[cut + 1 :]
        lines.append(line)
    return "\n".join(lines).encode("utf-8")


def curly_quotes(text: str) -> bytes:
    """As word processors, chat programs and translators write them."""
    return re.sub(r"'([^'\n]*)'", "‘\\1’", re.sub(r'"([^"\n]*)"', "“\\1”", text)).encode("utf-8")


def back_quotes(text: str) -> bytes:
    return text.replace("'", "`").encode("utf-8")


def entities(text: str) -> bytes:
    """Copied out of a page's source."""
    return html.escape(text).encode("utf-8")


def markdown_escapes(text: str) -> bytes:
    return (text.replace("_", "\\_") if ":\\" not in text else text).encode("utf-8")


def full_width(text: str) -> bytes:
    """What a translator makes of punctuation."""
    return text.replace(": ", "：").encode("utf-8")


PASTED = [curly_quotes, back_quotes, entities, markdown_escapes, full_width]


@pytest.mark.parametrize("change", PASTED, ids=lambda change: change.__name__)
def test_first_cause_survives_pasting(change: Any) -> None:
    chosen = [case for case in CASES[::4] if case.causes[0] != "unknown"]
    lost = [case.name for case in chosen if names(change(case.log.decode("utf-8")))[0] != case.causes[0]]
    assert len(lost) <= 0.03 * len(chosen), lost


@pytest.mark.parametrize(
    "text",
    [
        "ModuleNotFoundError: No module named 'causal _conv1d _cuda'",  # text recognition
        "Exception has occurred: TypeError\ncausal_conv1d_fwd(): incompatible function arguments.",  # an editor
        "selective_scan_cuda.cpython-310-x86_64-linux-gnu. so: undefined symbol: _ZN3c1017x",
    ],
)
def test_text_from_pictures_and_editors(text: str) -> None:
    assert names(text.encode("utf-8")) != ["unknown"]


CHANGES = [crlf, utf16, utf16_without_mark, gbk, coloured, quoted, docker, indented, ci_stamps]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_first_cause_survives(change: Any) -> None:
    # what a terminal has broken at its width cannot be joined any more once something stands before each line
    chosen = [case for case in CASES if not case.name.startswith("hard_wrapped")]
    lost = [case.name for case in chosen if names(change(case.log.decode("utf-8")))[0] != case.causes[0]]
    assert lost == []


def test_first_cause_survives_wrapping() -> None:
    """A wrapped line can lose a word's neighbours; nearly all signatures must still match."""
    lost = [case.name for case in CASES if names(wrapped(case.log.decode("utf-8")))[0] != case.causes[0]]
    assert len(lost) <= 0.03 * len(CASES), lost


def test_first_cause_survives_a_long_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a log that is not kept whole, the lines with WORDS in them must still tell the cause."""
    monkeypatch.setattr(reading, "WHOLE", 10_000)
    monkeypatch.setattr(reading, "HEAD", 1000)
    monkeypatch.setattr(reading, "TAIL", 1000)
    noise = b"ptxas info    : Used 56 registers, used 1 barriers, 480 bytes cmem[0]\n" * 500
    # a log's own end is no longer its end there, and words that a terminal broke are only joined in a log kept whole
    without = ("log-truncated", "build-very-slow", "unknown")
    chosen = [case for case in CASES if case.causes[0] not in without and not case.name.startswith("hard_wrapped")]
    lost = [case.name for case in chosen if case.causes[0] not in names(noise + case.log + noise)]
    assert len(lost) <= 0.02 * len(chosen), lost
