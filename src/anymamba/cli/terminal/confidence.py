"""The confidence view: text as it streams, with tokens marked that the model itself found improbable."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from anymamba.language import _
from anymamba.printable import Printable

if TYPE_CHECKING:
    from anymamba.generation.text import Piece

UNLIKELY, DOUBTFUL = 0.1, 0.4
"""Below these probabilities a token is marked red or yellow; without colour, ⟦token 7%⟧."""


class Marker:
    """Writes pieces to a stream as they come. marking: show the confidence."""

    def __init__(self, stream: TextIO, marking: bool) -> None:
        self._stream, self._marking = stream, marking
        self._printable = Printable(stream)
        forced = bool(os.environ.get("FORCE_COLOR"))
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._colour = forced or (stream.isatty() and not plain)
        self._lowest = 1.0
        self._entropies: list[float] = []
        self._marked = 0

    def write(self, piece: Piece) -> None:
        if piece.probability is not None and piece.entropy is not None:
            # a character made of several tokens is as certain as its least certain token
            self._lowest = min(self._lowest, piece.probability)
            self._entropies.append(piece.entropy)
        if not piece.text:
            return
        text = self._printable.show(piece.text)
        self._stream.write(self._shown(text) if self._marking and text else text)
        self._stream.flush()
        self._lowest = 1.0

    def finish(self) -> None:
        """Ends the line; with marking, the summary follows."""
        self._stream.write("\n")
        if self._marking and self._entropies:
            mean = sum(self._entropies) / len(self._entropies)
            self._stream.write(
                _(
                    "-- mean entropy {mean:.2f} bits, highest {highest:.2f}; {marked} of {count} tokens below "
                    "{limit:.0%}"
                ).format(
                    mean=mean,
                    highest=max(self._entropies),
                    marked=self._marked,
                    count=len(self._entropies),
                    limit=DOUBTFUL,
                )
                + "\n"
            )
        self._stream.flush()

    def _shown(self, text: str) -> str:
        if self._lowest >= DOUBTFUL:
            return text
        self._marked += 1
        if self._colour:
            return f"\x1b[{31 if self._lowest < UNLIKELY else 33}m{text}\x1b[0m"
        return f"⟦{text} {self._lowest:.0%}⟧"
