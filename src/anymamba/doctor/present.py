"""From a rule that matched to a finding: its place in the order of repair, its evidence, its texts and commands filled in."""

from __future__ import annotations

import platform
import shlex
import sys
from typing import Dict, List, Optional, Tuple

from anymamba.doctor.finding import Evidence, Finding, Step
from anymamba.doctor.log import Log
from anymamba.doctor.rule import BRANCH, CAUSE, NOTE, POSSIBLE, Match, Rule
from anymamba.doctor.shells import commands, shell_of

MOST_EVIDENCE = 4


class RuleMatch:
    """A rule with its match, before ranking."""

    def __init__(self, rule: Rule, match: Match) -> None:
        self.rule, self.match = rule, match
        self.role = match.role or rule.role
        self.explained_by: Optional[str] = None

    def key(self) -> Tuple[int, int, int, int]:
        """Real causes, then symptoms of those, then branches and notes; a mere possibility comes after what is sure."""
        role = {CAUSE: 0, BRANCH: 2, NOTE: 3}[self.role]
        if self.role == CAUSE and self.explained_by:
            role = 1
        weak = 1 if self.match.confidence == POSSIBLE else 0
        return role + 4 * weak, self.rule.order, 0, min(self.match.offsets or (0,))


def rank(found: List[RuleMatch]) -> None:
    """Marks symptoms and sorts in place."""
    sure = {item.rule.cause: item for item in found if item.match.confidence != POSSIBLE}
    for item in found:
        for other in sure.values():
            if item.rule.cause in other.rule.explains and other is not item:
                item.explained_by = other.rule.cause
                break
    found.sort(key=RuleMatch.key)


def present(item: RuleMatch, log: Optional[Log], system: str) -> Finding:
    """A finding in the current language, with commands for this system."""
    rule, match = item.rule, item.match
    values = (
        dict(DEFAULT_VALUES, **_values(log), **(match.values or {}))
        if log
        else dict(DEFAULT_VALUES, **(match.values or {}))
    )
    evidence: List[Evidence] = []
    for offset in match.offsets:
        line = log.line_at(offset) if log else None
        if log and line and not any(seen.line == line.number for seen in evidence):
            evidence.append(Evidence(line.number, log.words_at(offset)))
    evidence = sorted(evidence[:MOST_EVIDENCE])
    evidence.extend(Evidence(0, text) for text in match.lines)
    return Finding(
        rule.code,
        rule.cause,
        fill(rule.title.here(), values),
        match.confidence,
        item.role,
        tuple(evidence[:MOST_EVIDENCE]),
        fill(rule.why.here(), values),
        fill(rule.needed.here(), values),
        steps(rule, system, values),
        item.explained_by,
        rule.links,
    )


# what stands in commands where neither the log nor the machine says better
DEFAULT_VALUES = {
    "toolkit_dashed": "12-8",
    "package": "causal-conv1d mamba-ssm",
    "cuda": "cu128",
    "toolkit": "12.8",
    "gcc": "12",
    "arch": "120",
    "mamba": "2.3.1",
    "conv": "1.6.1",
    "python": "3.12",
    "log": "build.log",
}


def _values(log: Log) -> Dict[str, str]:
    values: Dict[str, str] = {}
    if log.name:
        values["log"] = shlex.quote(log.name)
    versions = log.facts.get("versions", {})
    failed = sorted(name for name in log.failed if name in ("mamba-ssm", "causal-conv1d"))
    if failed:
        values["package"] = " ".join(failed)
    if "mamba-ssm" in versions:
        values["mamba"] = versions["mamba-ssm"]
    if "causal-conv1d" in versions:
        values["conv"] = versions["causal-conv1d"]
    return values


def fill(text: str, values: Dict[str, str]) -> str:
    """{name} by its value; other braces stay, they are shell or Python."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def steps(rule: Rule, system: str, values: Dict[str, str]) -> Tuple[Step, ...]:
    """The remedies that apply on this system, in order."""
    chosen = []
    for remedy in rule.remedies:
        if remedy.systems and system not in remedy.systems and not (system == "wsl" and "linux" in remedy.systems):
            continue
        chosen.append(
            Step(
                fill(remedy.text.here(), values),
                tuple(fill(command, values) for command in commands(remedy, system)),
                shell_of(system),
            )
        )
    return tuple(chosen)


def this_system() -> str:
    """ "windows", "macos", "wsl" or "linux"."""
    if sys.platform == "win32":
        return "windows"
    if sys.platform == "darwin":
        return "macos"
    return "wsl" if "microsoft" in platform.release().lower() else "linux"
