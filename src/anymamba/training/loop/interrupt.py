"""Ctrl-C (and a scheduler's SIGTERM) as a question that the loop answers after the micro-batch at hand, with a checkpoint."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from anymamba.language import _

SIGNALS = (signal.SIGINT, signal.SIGTERM)

ECHO_SECONDS = 2.0
"""Under torchrun a Ctrl-C arrives twice, from the terminal and from torchrun: what follows this soon is no second one."""


class Interrupt:
    """``asked`` becomes the number of the signal. A second one stops at once, without a checkpoint.

    leave: ends the process, given the number of the signal; called from a thread of its own, since Python's handlers wait
    until a kernel or a matrix product has returned. Without it the second signal raises KeyboardInterrupt as soon as Python
    can: the caller's process (a notebook) goes on.
    """

    def __init__(self, leave: Callable[[int], None] | None = None) -> None:
        self.asked = 0
        self._leave = leave
        self._times: list[float] = []
        self._before: dict[int, Any] = {}
        self._pipe: tuple[socket.socket, socket.socket] | None = None
        self._wakeup = -1

    def __enter__(self) -> Interrupt:
        # only the main thread may set handlers; elsewhere (a notebook's worker) the default stays
        if threading.current_thread() is threading.main_thread():
            if self._leave is not None:
                self._pipe = socket.socketpair()
                self._pipe[1].setblocking(False)
                self._wakeup = signal.set_wakeup_fd(self._pipe[1].fileno(), warn_on_full_buffer=False)
                threading.Thread(target=self._listen, args=(self._pipe[0],), daemon=True).start()
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup)
            self._pipe[1].close()  # ends the thread
            self._pipe = None

    def _listen(self, signals: socket.socket) -> None:
        """The system writes the number of each signal into the socket at once, whatever Python is waiting for."""
        with signals:
            while received := signals.recv(64):
                for number in received:
                    if number in SIGNALS:
                        self._came(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._leave is None:
            self._came(number)

    def _came(self, number: int) -> None:
        now = time.monotonic()
        if self._times and int(os.environ.get("WORLD_SIZE", "1")) > 1 and now - self._times[-1] < ECHO_SECONDS:
            return
        self._times.append(now)
        if len(self._times) > 1:
            if self._leave is None:
                raise KeyboardInterrupt
            self._leave(number)
            return
        self.asked = number
        print(
            _("\nstopping after this micro-batch, with a checkpoint (again to stop at once)"),
            file=sys.stderr,
            flush=True,
        )

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 when nobody asked."""
        return 128 + self.asked if self.asked else 0
