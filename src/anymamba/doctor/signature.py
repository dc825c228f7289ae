"""A line of a log that shows a cause, and how much such a line proves."""

from __future__ import annotations

from anymamba.doctor.patterns import compiled

CERTAIN, LIKELY, POSSIBLE = "certain", "likely", "possible"
CONFIDENCES = (CERTAIN, LIKELY, POSSIBLE)


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
