"""What is typed and pasted, for the line editor: read in full at any time, also while an answer is being written.

A terminal's own queue holds 4,096 characters. When it is full the program that types waits, and with it the Ctrl-C behind the text.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import os
import select
import sys
import threading
from collections.abc import Iterator

from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

IN_ONE_GO = 16
"""Characters that nobody types between two looks at the keyboard."""

NEXT_PART_SECONDS = 0.02
"""So long the next part of a paste may take to come."""


def make() -> Input:
    """The keyboard of this system, to be given to the editor."""
    if sys.platform != "win32":
        return _posix()
    return create_input(sys.stdin)


if sys.platform != "win32":
    from prompt_toolkit.input.typeahead import store_typeahead
    from prompt_toolkit.input.vt100 import Vt100Input
    from prompt_toolkit.input.vt100_parser import Vt100Parser

    class Keyboard(Vt100Input):
        """Text that comes in one go is one key press of a paste, also from terminals that do not mark pastes: key by key, and drawn
        after each part, 20,000 characters would take minutes."""

        def __init__(self) -> None:
            super().__init__(sys.stdin)
            self._pressed: list[KeyPress] = []
            self._parser = Vt100Parser(self._pressed.append)
            self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
            self._ended = False

        @property
        def closed(self) -> bool:
            return self._ended

        def read_keys(self) -> list[KeyPress]:
            self._read()
            while len(self._pressed) >= IN_ONE_GO and self._waits(NEXT_PART_SECONDS):
                self._read()
            return self._take()

        def flush_keys(self) -> list[KeyPress]:
            self._parser.flush()
            return self._take()

        @contextlib.contextmanager
        def read_ahead(self) -> Iterator[None]:
            """Inside, what is typed is read and put aside for the next question."""
            over = threading.Event()

            def read() -> None:
                while not over.is_set() and not self._ended:
                    if self._waits(0.05):
                        self._read()

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            try:
                yield
            finally:
                over.set()
                reader.join()
                store_typeahead(self, self._take())

        def _waits(self, seconds: float) -> bool:
            return bool(select.select([self.fileno()], [], [], seconds)[0])

        def _read(self) -> None:
            content = b""
            with contextlib.suppress(OSError):  # the terminal is gone: the end of the input
                content = os.read(self.fileno(), 65536)
            self._ended = not content
            self._parser.feed(self._decoder.decode(content))

        def _take(self) -> list[KeyPress]:
            keys: list[KeyPress] = []
            for is_text, run in itertools.groupby(self._pressed, lambda press: len(press.key) == 1):
                presses = list(run)
                if is_text and len(presses) >= IN_ONE_GO:
                    presses = [KeyPress(Keys.BracketedPaste, "".join(press.data for press in presses))]
                keys += presses
            self._pressed.clear()
            return keys

    def _posix() -> Keyboard:
        return Keyboard()
