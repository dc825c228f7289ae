"""From a rule that matched to a finding: its place in the order of repair, its evidence, its texts and commands filled in."""

from __future__ import annotations

import platform
import re
import sys
from typing import Dict, List, Mapping, Optional, Tuple

from anymamba.doctor import blanks, page
from anymamba.doctor.environment import Environment
from anymamba.doctor.finding import Evidence, Finding, Step
from anymamba.doctor.log import Log
from anymamba.doctor.page import Remedy
from anymamba.doctor.rule import BRANCH, CAUSE, NOTE, POSSIBLE, Match, Rule
from anymamba.doctor.shells import commands
from anymamba.language import current_language

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


def present(item: RuleMatch, log: Optional[Log], environment: Environment) -> Finding:
    """A finding in the current language, with commands for this environment."""
    rule, match, prose = item.rule, item.match, item.rule.page()
    known = dict(blanks.values(environment), **(match.values or {}))
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
        fill(prose.title, known),
        match.confidence,
        item.role,
        tuple(evidence[:MOST_EVIDENCE]),
        fill(prose.why, known),
        fill(prose.needed, known),
        steps(rule, environment, known),
        item.explained_by,
        prose.links,
    )


# Linux with an NVIDIA card and no more known: what the pages of docs/*/errors show
TYPICAL = Environment("linux", torch="2.8.0", cuda="12.8", python="3.12")


def fill(text: str, known: Mapping[str, str]) -> str:
    """{name} by its value; other braces stay, they are shell or Python."""
    for name, value in known.items():
        text = text.replace("{" + name + "}", value)
    return text


_OPEN_BLANK = re.compile(r"\{[a-z_0-9]+\}")


def steps(rule: Rule, environment: Environment, known: Dict[str, str]) -> Tuple[Step, ...]:
    """The remedies that apply here, in order. Where the official packages cannot be installed, doing without them comes first."""
    chosen = [step for remedy in rule.page().remedies for step in [_step(remedy, environment, known)] if step]
    if environment.system in ("windows", "macos"):
        chosen = [step for step in chosen if environment.system == "windows" or not any(_OFFICIAL.search(line) for line in step.commands)]
        without = [step for step in chosen if any("dropin" in line for line in step.commands)]
        if not without and (not chosen or any(_OFFICIAL.search(line) for step in chosen for line in step.commands)):
            without = [step for step in [_step(page.shared_remedy("use-anymamba", current_language()), environment, known)] if step]
        chosen = without + [step for step in chosen if step not in without]
    return tuple(chosen)


_OFFICIAL = re.compile(
    r"(?:pip install|uv add)[^\n]*(?:mamba-ssm|causal-conv1d|state-spaces/mamba|selective_scan)"
    r"|cuda-toolkit|Nvidia\.CUDA|whl/cu"
)


def _step(remedy: Remedy, environment: Environment, known: Dict[str, str]) -> Optional[Step]:
    if remedy.systems and environment.system not in remedy.systems and not (environment.system == "wsl" and "linux" in remedy.systems):
        return None
    if remedy.managers and environment.manager not in remedy.managers or remedy.places and environment.place not in remedy.places:
        return None
    filled = tuple(fill(command, known) for command in remedy.commands)
    powershell = None if remedy.powershell is None else tuple(fill(command, known) for command in remedy.powershell)
    text = fill(remedy.text, known)
    if any(_OPEN_BLANK.search(words) for words in (text, *filled, *(powershell or ()))):
        return None
    shell = environment.shell if environment.system == "windows" else environment.place or "bash"
    return Step(text, commands(remedy, environment, filled, powershell), shell)


def this_system() -> str:
    """ "windows", "macos", "wsl" or "linux"."""
    if sys.platform == "win32":
        return "windows"
    if sys.platform == "darwin":
        return "macos"
    return "wsl" if "microsoft" in platform.release().lower() else "linux"
