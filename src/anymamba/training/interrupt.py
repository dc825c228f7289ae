"""Ctrl-C (and a scheduler's SIGTERM) as a question that the loop answers between two steps, with a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from anymamba.language import say


class Interrupt:
    """``asked`` becomes the number of the signal. A second Ctrl-C stops at once, without a checkpoint."""

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        # only the main thread may set handlers; elsewhere (a notebook's worker) the default stays
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
        print(
            say(
                "\nstopping after this step, with a checkpoint (again to stop at once)",
                "\n将在本步结束并保存检查点后停止（再按一次立即停止）",
            ),
            file=sys.stderr,
            flush=True,
        )

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 when nobody asked."""
        return 128 + self.asked if self.asked else 0
