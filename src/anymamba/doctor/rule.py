"""What a rule is made of. A rule is one cause: how it shows, why it happens, what to do, in English and Chinese."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from anymamba.doctor.patterns import compiled
from anymamba.language import current_language

if TYPE_CHECKING:
    from anymamba.doctor.log import Log

CERTAIN, LIKELY, POSSIBLE = "certain", "likely", "possible"
CONFIDENCES = (CERTAIN, LIKELY, POSSIBLE)
NO_DIAGNOSIS = "none"
"""The confidence of ``unknown``: nothing is claimed."""

# how far a finding must be fixed: a cause stops the user; a branch only decides which way the installer goes on,
# and is the diagnosis when nothing else failed; a note is worth knowing and stops nobody
CAUSE, BRANCH, NOTE = "cause", "branch", "note"


class Text(NamedTuple):
    """A sentence in both languages; rules are built at import, when the language is not settled yet."""

    en: str
    zh: str

    def here(self) -> str:
        return self.zh if current_language() == "zh" else self.en


class Remedy(NamedTuple):
    """text: what this does and when it applies; commands: for bash and pip (shells.py makes the user's shell and package manager of
    them, unless powershell gives its own), with {blanks} that blanks.py fills: a remedy with a blank that nothing tells is left out.

    systems: where it applies ("linux", "windows", "macos", "wsl"), empty for everywhere; managers, places: the same for "pip", "uv",
    "poetry", "conda" and for "dockerfile", "notebook" and "" (a terminal)."""

    text: Text
    commands: Tuple[str, ...] = ()
    powershell: Optional[Tuple[str, ...]] = None
    systems: Tuple[str, ...] = ()
    managers: Tuple[str, ...] = ()
    places: Tuple[str, ...] = ()


class Signature:
    """A line (or wrapped lines) that shows the cause.

    pattern: a regular expression searched in the cleaned log; a blank matches any run of white space, so that lines
        which a tool wrapped at 80 columns still match. ``^`` and ``$`` match at lines.
    own: the words can only come from the packages that we diagnose, so no other evidence of them is needed;
        else the match counts only where the log is about them (``Log.concern``).
    bare: not own, but worth saying as "possible" in a fragment that names no package at all.
    confidence: the most that this line alone can prove.
    """

    def __init__(self, pattern: str, own: bool = False, bare: bool = False, confidence: str = CERTAIN) -> None:
        self.source = pattern
        self.regex = compiled(pattern)
        self.own, self.bare, self.confidence = own, bare, confidence


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
    against: what else in the log contradicts this cause."""

    code: str
    cause: str
    order: int
    title: Text
    why: Text
    needed: Text
    remedies: Tuple[Remedy, ...]
    signatures: Tuple[Signature, ...] = ()
    log: Optional[Callable[["Log"], Optional[Match]]] = None
    machine: Optional[Callable[[Dict[str, Any]], Optional[Match]]] = None
    role: str = CAUSE
    explains: Tuple[str, ...] = ()
    links: Tuple[str, ...] = ()
    against: Tuple[Against, ...] = ()

    def match_log(self, log: "Log") -> Optional[Match]:
        match = self.log(log) if self.log is not None else match_signatures(log, self.signatures)
        return _contradicted(log, match, self.against) if match else None


def _contradicted(log: "Log", match: Match, against: Tuple[Against, ...]) -> Optional[Match]:
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


def match_signatures(log: "Log", signatures: Tuple[Signature, ...]) -> Optional[Match]:
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


def _confidence(log: "Log", signature: Signature, start: int, end: int) -> Optional[str]:
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


# answers to "do I need to fix this at all?"
OPTIONAL = Text(
    "Usually not: anymamba computes the same models without mamba-ssm. Fix it only if you need the official packages.",
    "通常不需要：没有 mamba-ssm，anymamba 也能计算同样的模型。只有确实需要官方包时才要修复。",
)
ONLY_OFFICIAL = Text(
    "Only if this program must use the official packages; `anymamba dropin` lets it run on anymamba instead.",
    "只有该程序必须使用官方包时才需要；也可以用 `anymamba dropin` 让它改用 anymamba 运行。",
)
HARMLESS = Text(
    "No. Nothing failed here; it only costs speed, and anymamba brings fast kernels without an install.",
    "不需要。这里没有出错，只是速度较慢；anymamba 无需安装即可提供快速内核。",
)
NECESSARY = Text("Yes: the same problem stops other GPU programs too.", "需要：同一问题也会影响其他 GPU 程序。")
