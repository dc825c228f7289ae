"""The report for a terminal: one line an area, then the findings in the order in which to fix them."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata
from typing import List

from anymamba.doctor.finding import Finding, Report
from anymamba.doctor.rule import BRANCH, CERTAIN, LIKELY, NO_DIAGNOSIS, NOTE
from anymamba.language import _

_MARKS = {"ok": ("[✓]", "32"), "warning": ("[!]", "33"), "bad": ("[✗]", "31"), "info": ("[•]", "36")}


def colourful(stream: object) -> bool:
    """Colour on a terminal, unless NO_COLOR or TERM=dumb; FORCE_COLOR has it everywhere."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return bool(getattr(stream, "isatty", lambda: False)()) and os.environ.get("TERM") != "dumb"


class _Painter:
    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, text: str, code: str) -> str:
        return "\x1b[{}m{}\x1b[0m".format(code, text) if self.colour else text


def render(report: Report, verbose: bool = False, colour: bool = False) -> str:
    paint = _Painter(colour)
    lines: List[str] = []
    for section in report.sections:
        mark, code = _MARKS[section.state]
        lines.append("{} {}: {}".format(paint(mark, code), section.title, section.summary))
        if verbose or section.state == "bad":
            lines.extend("    • {}".format(detail) for detail in section.details)
    if report.sections:
        lines.append("")
    for number, finding in enumerate(report.findings, 1):
        lines.extend(_finding(number, finding, paint))
        lines.append("")
    lines.extend(_last(report))
    return "\n".join(lines).rstrip() + "\n"


def confidence_word(finding: Finding) -> str:
    if finding.confidence == NO_DIAGNOSIS:
        return _("no diagnosis")
    return {
        CERTAIN: _("certain"),
        LIKELY: _("likely"),
    }.get(finding.confidence, _("possible"))


def _finding(number: int, finding: Finding, paint: _Painter) -> List[str]:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    head = "{}. [{}] {} ".format(number, finding.code, finding.cause)
    lines = [paint(head, "1") + "({})".format(confidence_word(finding))]
    lines += _wrap(finding.title, "   ", width)
    if finding.explained_by:
        lines += _wrap(
            _("A consequence of {explained_by}: fix that first, then look again.").format(
                explained_by=finding.explained_by
            ),
            "   ",
            width,
        )
    elif finding.role in (BRANCH, NOTE):
        lines += _wrap(_("Worth knowing; by itself this stops nothing."), "   ", width)
    for item in finding.evidence:
        where = _("line {line}").format(line=item.line) if item.line else _("here")
        lines.append(paint("   {} | ".format(where), "2") + item.text)
    lines += _wrap(_("Need to fix it? ") + finding.needed, "   ", width)
    for step_number, step in enumerate(finding.remedies, 1):
        lines += _wrap("{}) {}".format(step_number, step.text), "   ", width)
        lines += [paint("        " + command, "36") for command in step.commands]
    lines += _wrap(
        _("More: anymamba doctor --explain {code}").format(code=finding.code),
        "   ",
        width,
    )
    return lines


def _last(report: Report) -> List[str]:
    late = report.facts.get("late", [])
    if report.healthy and late:
        text = _("Nothing wrong with what was looked at; not looked at: {}.")
        return [text.format(", ".join(late))]
    if report.healthy:
        return [_("No issues found.")]
    real = [item for item in report.findings if item.role not in (BRANCH, NOTE)]
    if [item.cause for item in report.findings] == ["unknown"]:
        name = report.source.get("name", "-")
        return [
            _(
                "No diagnosis. What was recognised: {recognised}. `anymamba doctor {name} --markdown` writes a report "
                "without private data."
            ).format(recognised=recognised(report), name=name if name != "-" else "build.log")
        ]
    return [
        _("{count} found, listed in the order in which to fix them.").format(count=len(real) or len(report.findings))
    ]


def recognised(report: Report) -> str:
    """What the log told besides its error, in one line."""
    facts = report.source.get("recognised", {})
    parts = [str(facts[key]) for key in ("system",) if facts.get(key)]
    parts += facts.get("tools", [])
    parts += ["{} {}".format(name, version) for name, version in facts.get("versions", {}).items()]
    for key, name in (("torch_of_build", "torch"), ("python", "Python")):
        if facts.get(key):
            parts.append("{} {}".format(name, facts[key]))
    if facts.get("failed_packages"):
        parts.append(_("failed: ") + ", ".join(facts["failed_packages"]))
    return ", ".join(parts) or _("nothing")


def _wrap(text: str, indent: str, width: int) -> List[str]:
    """Lines of at most width columns; a Chinese character takes two columns and may be followed by a break."""
    if not any(unicodedata.east_asian_width(character) in "WF" for character in text):
        return textwrap.wrap(
            text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    lines, current, used = [], "", 0
    for word in _pieces(text):
        size = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in word)
        if used + size > width - len(indent) and current:
            lines.append(indent + current.rstrip())
            current, used = "", 0
            word = word.lstrip()
        current += word
        used += size
    return lines + [indent + current] if current else lines


def _wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _pieces(text: str) -> List[str]:
    """Parts between which a line may be broken: words, and single Chinese characters with the punctuation after them."""
    pieces: List[str] = []
    for character in text:
        in_word = bool(pieces) and not _wide(character) and character != " " and not _wide(pieces[-1][-1])
        closes = bool(pieces) and character in "，。；：、？！）”"
        if in_word or closes:
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def write(report: Report, verbose: bool) -> None:
    sys.stdout.write(render(report, verbose, colourful(sys.stdout)))
