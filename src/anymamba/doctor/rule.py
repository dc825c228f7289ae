"""What a rule is made of. A rule is one cause: how it shows, and beside it, in en.md and zh.md, why it happens and what to do (page.py)."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from anymamba.doctor import page
from anymamba.doctor.log import Log
from anymamba.doctor.patterns import compiled
from anymamba.doctor.signature import CERTAIN, CONFIDENCES, LIKELY, POSSIBLE, Signature
from anymamba.language import current_language

NO_DIAGNOSIS = "none"
"""The confidence of ``unknown``: nothing is claimed."""

# how far a finding must be fixed: a cause stops the user; a branch only decides which way the installer goes on,
# and is the diagnosis when nothing else failed; a note is worth knowing and stops nobody
CAUSE, BRANCH, NOTE = "cause", "branch", "note"


class Match(NamedTuple):
    """Where a rule matched: offsets into the log's text (none for facts of the machine), and how sure it is.

    values fill the blanks in commands and texts ({cuda}, {package}, ...); lines are evidence that has no offset.
    """

    offsets: Tuple[int, ...] = ()
    confidence: str = CERTAIN
    values: Optional[Dict[str, str]] = None
    lines: Tuple[str, ...] = ()
    role: Optional[str] = None


class Against(NamedTuple):
    """Words that speak against a cause. They remove the finding, or leave it a mere possibility.

    near: lines around the match in which they count; None for the whole log.
    """

    pattern: str
    removes: bool = False
    near: Optional[int] = None


class Rule(NamedTuple):
    """order: findings are sorted by it, the thing to fix first has the smallest number; explains: causes that are only
    symptoms when this rule matched as well; log: matching beyond the signatures; machine: matching on facts;
    against: what else in the log contradicts this cause; package: the folder with its Markdown, set when the rules are collected."""

    code: str
    cause: str
    order: int
    signatures: Tuple[Signature, ...] = ()
    log: Optional[Callable[[Log], Optional[Match]]] = None
    machine: Optional[Callable[[Dict[str, Any]], Optional[Match]]] = None
    role: str = CAUSE
    explains: Tuple[str, ...] = ()
    against: Tuple[Against, ...] = ()
    package: str = ""

    def page(self) -> page.Page:
        """Its prose in the current language."""
        return page.read(self.package, current_language())

    def match_log(self, log: Log) -> Optional[Match]:
        match = self.log(log) if self.log is not None else match_signatures(log, self.signatures)
        return _contradicted(log, match, self.against) if match else None


def _contradicted(log: Log, match: Match, against: Tuple[Against, ...]) -> Optional[Match]:
    """The match, weaker or gone where the log speaks against it; the contradiction becomes a part of the evidence."""
    for words in against:
        place = min(match.offsets or (0,))
        if words.near is None:
            found = log.search(words.pattern)
            offsets = (found.start(),) if found else ()
        else:
            found = compiled(words.pattern).search(log.around(place, place, before=words.near, after=words.near))
            offsets = ()
        if found is None:
            continue
        if words.removes:
            return None
        match = match._replace(confidence=POSSIBLE, offsets=match.offsets + offsets)
    return match


def match_signatures(log: Log, signatures: Tuple[Signature, ...]) -> Optional[Match]:
    """The first place of each signature that counts; the confidence is that of the best one."""
    offsets: List[int] = []
    best = None
    for signature in signatures:
        for found in log.finditer(signature):
            level = _confidence(log, signature, found.start(), found.end())
            if level is None:
                continue
            offsets.append(found.start())
            best = level if best is None else min(best, level, key=CONFIDENCES.index)
            break
    if best is None:
        return None
    return Match(tuple(sorted(offsets)), best)


def _confidence(log: Log, signature: Signature, start: int, end: int) -> Optional[str]:
    concern = log.concern(start, end)
    if signature.own:
        # words of our packages, quoted under another package's name, are still theirs (flash-attn copies setup.py)
        return None if concern == "other" and signature.confidence != CERTAIN else signature.confidence
    if concern == "ours":
        return signature.confidence
    if concern == "mentioned":
        return max(signature.confidence, LIKELY, key=CONFIDENCES.index)
    if concern == "nothing" and signature.bare:
        return POSSIBLE
    return None
