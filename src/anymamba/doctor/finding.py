"""What the doctor hands over: findings in the order in which to fix them, and what was read to get there."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple


class Evidence(NamedTuple):
    """line: counted from 1 in the log as given, 0 for a fact of the machine."""

    line: int
    text: str


class Step(NamedTuple):
    """One remedy, written for the user's system and language."""

    text: str
    commands: Tuple[str, ...]
    shell: str


class Finding(NamedTuple):
    """One cause. explained_by: the cause that makes this one a symptom; fix that one first and look again."""

    code: str
    cause: str
    title: str
    confidence: str
    role: str
    evidence: Tuple[Evidence, ...]
    why: str
    needed: str
    remedies: Tuple[Step, ...]
    explained_by: Optional[str] = None
    links: Tuple[str, ...] = ()

    def document(self) -> Dict[str, Any]:
        return {
            "code": self.code,
            "cause": self.cause,
            "title": self.title,
            "confidence": self.confidence,
            "role": self.role,
            "evidence": [{"line": item.line, "text": item.text} for item in self.evidence],
            "why": self.why,
            "needed": self.needed,
            "remedies": [
                {"text": step.text, "commands": list(step.commands), "shell": step.shell} for step in self.remedies
            ],
            "explained_by": self.explained_by,
            "links": list(self.links),
        }


class Section(NamedTuple):
    """One area of the machine: state is "ok", "warning", "bad" or "info"; details are shown with -v."""

    area: str
    state: str
    title: str
    summary: str
    details: Tuple[str, ...] = ()


class Report(NamedTuple):
    """source: what was examined and what was recognised in it, for --json and for an issue report."""

    kind: str
    findings: List[Finding]
    source: Dict[str, Any]
    sections: List[Section] = []
    facts: Dict[str, Any] = {}

    @property
    def healthy(self) -> bool:
        return not self.findings
