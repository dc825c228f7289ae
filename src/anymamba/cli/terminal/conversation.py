"""A conversation's end of the terminal: questions of any length in, Ctrl-C for the answer alone, and nothing left over for the shell.

From before the model is read until the end the terminal neither echoes nor cuts lines: what is typed or pasted meanwhile waits in full for
the next question. What still waits at the end is thrown away, so that no line of a pasted text becomes a command of the shell.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from anymamba.cli.terminal.standard_input import decode as decode_bytes
from anymamba.cli.terminal.standard_input import note_once

if sys.platform != "win32":
    import termios

QUIET_SECONDS = 0.15
"""So long nothing must come before the input counts as used up: a terminal hands over a long paste bit by bit."""

LONGEST_DRAIN = 5.0


def is_terminal() -> bool:
    """Whether somebody types the questions and can see what they type."""
    return sys.stdin.isatty() and (sys.stderr.isatty() or sys.stdout.isatty())


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Inside, the terminal is ours. On every way out its modes are put back, after what nobody has read was thrown away."""

    def leave(*_: Any) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with _without_echo():
            try:
                yield
            finally:
                _drain()
    finally:
        signal.signal(signal.SIGTERM, before)


class Questions:
    """The line editor: history with the arrow keys, pastes with line breaks, Alt-Enter for a new line, wide characters."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        from anymamba.cli.terminal import keyboard

        keys = KeyBindings()

        @keys.add("enter")
        def _(event: Any) -> None:
            buffer = event.current_buffer
            if buffer.document.char_before_cursor == "\\" and buffer.document.is_cursor_at_the_end:
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        @keys.add("escape", "c-j")
        def _(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        self._history = InMemoryHistory()
        self._keyboard = keyboard.make()
        self._session: PromptSession[str] = PromptSession(
            "> ", multiline=True, prompt_continuation="  ", key_bindings=keys, history=self._history,
            input=self._keyboard, output=_output(),
        )  # fmt: skip

    def ask(self) -> str | None:
        """The next question; None at the end of the input (Ctrl-D). Raises KeyboardInterrupt for Ctrl-C."""
        try:
            typed = self._session.prompt()
        except EOFError:
            return None
        text, note = decode_bytes(typed.encode("utf-8", "surrogateescape"))
        note_once(note)
        return text

    @contextlib.contextmanager
    def answering(self) -> Iterator[Callable[[], bool]]:
        """Inside, Ctrl-C is no exception: the callable says whether it was pressed. The second Ctrl-C raises KeyboardInterrupt. What is
        typed meanwhile waits for the next question."""
        pressed: list[int] = []

        def note(*_: Any) -> None:
            if pressed:
                raise KeyboardInterrupt
            pressed.append(1)

        before = signal.signal(signal.SIGINT, note)
        try:
            with getattr(self._keyboard, "read_ahead", contextlib.nullcontext)():
                yield lambda: bool(pressed)
        finally:
            signal.signal(signal.SIGINT, before)

    def remember(self, question: str) -> None:
        """Puts a question into the history that was not typed here."""
        self._history.append_string(question)


def _output() -> Any:
    """The editor draws on stderr, where prompts belong, or on stdout if only that is a terminal. It never asks the terminal where the
    cursor is: an answer that comes late would be typed into the shell."""
    stream = sys.stderr if sys.stderr.isatty() else sys.stdout
    if sys.platform == "win32":
        from prompt_toolkit.output import create_output

        return create_output(stream)
    from prompt_toolkit.data_structures import Size
    from prompt_toolkit.output.vt100 import Vt100_Output

    def size() -> Size:
        columns, rows = os.get_terminal_size(stream.fileno())
        return Size(rows or 24, columns or 80)

    return Vt100_Output(stream, size, term=os.environ.get("TERM"), enable_cpr=False)


@contextlib.contextmanager
def _without_echo() -> Iterator[None]:
    if sys.platform != "win32":
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
        quiet = termios.tcgetattr(keyboard)
        quiet[3] &= ~(termios.ICANON | termios.ECHO)
        quiet[3] |= termios.NOFLSH  # Ctrl-C stops the answer, and does not throw away what was typed
        quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0

        def again(*_: Any) -> None:
            termios.tcsetattr(keyboard, termios.TCSANOW, quiet)

        continued = signal.signal(signal.SIGCONT, again)  # after Ctrl-Z and fg the shell's modes would stay
        try:
            again()
            yield
        finally:
            signal.signal(signal.SIGCONT, continued)
            termios.tcsetattr(keyboard, termios.TCSANOW, before)
    else:
        yield


def _drain() -> None:
    """Reads what was typed or pasted and asks for nothing any more, until none has come for a moment."""
    end = time.monotonic() + LONGEST_DRAIN
    if sys.platform == "win32":
        import msvcrt

        while msvcrt.kbhit() and time.monotonic() < end:
            msvcrt.getwch()
        return
    keyboard = sys.stdin.fileno()
    with contextlib.suppress(OSError):  # the terminal may be gone
        while time.monotonic() < end and select.select([keyboard], [], [], QUIET_SECONDS)[0]:
            if not os.read(keyboard, 65536):
                return
