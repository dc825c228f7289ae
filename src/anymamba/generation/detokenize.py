"""Token ids to text while they arrive: never half a character, never the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"

LONGEST_WAIT = 8
"""Tokens that may wait. A UTF-8 character has at most 4 bytes, and up to 3 stray bytes may stand before it; a tail that is still
broken after that is no character."""


class StreamingDetokenizer:
    """``add(id)`` returns the text that became certain, which may be empty; ``finish()`` the rest.

    decode: ids -> text. Some tokenizers print a token differently at the start of a text (its space is dropped), so the ids
    of the text shown last are decoded again before the new ones; what they print is then cut off.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []
        self._waiting: list[int] = []

    def add(self, token: int) -> str:
        self._waiting.append(token)
        text = self._new_text()
        if text.endswith(REPLACEMENT) and len(self._waiting) < LONGEST_WAIT:
            return ""
        return self._show(text)

    def finish(self) -> str:
        """What is left, with U+FFFD for a character that never became whole."""
        return self._show(self._new_text()) if self._waiting else ""

    def _new_text(self) -> str:
        before = self._decode(self._shown)
        return self._decode(self._shown + self._waiting)[len(before) :]

    def _show(self, text: str) -> str:
        self._shown, self._waiting = self._waiting, []
        return text


class StopStrings:
    """Passes text through until one of the stop strings appears; text that may be the start of one waits."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._waiting = ""
        self.found: str | None = None

    def add(self, text: str) -> str:
        """The text that may be shown; once ``found`` is set, everything from the stop string on is dropped."""
        if self.found is not None:
            return ""
        self._waiting += text
        hits = [(self._waiting.index(stop), stop) for stop in self._stops if stop in self._waiting]
        if hits:
            position, self.found = min(hits)
            shown, self._waiting = self._waiting[:position], ""
            return shown
        keep = self._possible_start()
        shown, self._waiting = self._waiting[: len(self._waiting) - keep], self._waiting[len(self._waiting) - keep :]
        return shown

    def finish(self) -> str:
        """The waiting text: no stop string came."""
        shown, self._waiting = self._waiting, ""
        return shown

    def _possible_start(self) -> int:
        longest = max((len(stop) for stop in self._stops), default=0)
        for length in range(min(longest - 1, len(self._waiting)), 0, -1):
            tail = self._waiting[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
