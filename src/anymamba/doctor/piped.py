"""Standard input: whether a log comes through it, and when to stop reading one that does not end."""

from __future__ import annotations

import os
import stat
import threading
import time
from typing import BinaryIO, List, Optional

WAIT_SECONDS = 3.0
"""For the first byte of a pipe. A shell that starts programs over the network leaves a pipe open that never says anything."""

MOST_BYTES = 1 << 30
MOST_SECONDS = 4 * 3600.0
"""A build takes hours at most; what goes on longer, or grows larger, is no log."""


def is_piped(descriptor: int = 0) -> bool:
    """Whether standard input is a pipe or a file: somebody may mean it to be read."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def first_byte(descriptor: int, seconds: float = WAIT_SECONDS) -> Optional[bytes]:
    """The first byte; b"" at the end of an empty stream; None when nothing came within the time.

    The reading thread outlives a None: it is asleep in the system and ends with the process. It reads the descriptor itself,
    because a buffered stream that a thread still reads from cannot be closed at the end of the program."""
    answer: List[bytes] = []
    thread = threading.Thread(target=lambda: answer.append(os.read(descriptor, 1)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else None


class Limited:
    """A stream that begins with ``head`` and ends after MOST_BYTES or MOST_SECONDS; ``stopped`` says that it did."""

    def __init__(self, stream: BinaryIO, head: bytes = b"", most: int = MOST_BYTES, seconds: float = MOST_SECONDS) -> None:
        self._stream, self._head = stream, head
        self._left, self._end = most, time.monotonic() + seconds
        self.stopped = False

    def read(self, size: int) -> bytes:
        """Up to size bytes; b"" at the end or at a limit."""
        if self._left <= 0 or time.monotonic() > self._end:
            self.stopped = True
            return b""
        wanted = min(size, self._left)
        block = self._head
        self._head = b""
        # what has arrived is enough: a pipe is read while it is written
        read = getattr(self._stream, "read1", self._stream.read)
        block += read(max(1, wanted - len(block)))
        self._left -= len(block)
        return block
