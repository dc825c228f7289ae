"""How many CPU threads: one for every core that is ours and idle, since threads that wait for a core hold up all the others.

torch takes one for every core of the machine, also in a container that may use two of sixty-four, and on a machine where other
programs run; a parallel loop is then as slow as its slowest thread. Programs come and go, so a run looks again and again.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from anymamba.language import _, ngettext
from anymamba.training.machine import cpu_use
from anymamba.training.machine.cpu_use import Reading

WINDOW = 0.5
"""Seconds of the first look."""

LOOK_SECONDS = 2.0
"""Between two looks during a run, at least; a hundred times what a look costs where that is more."""

GIVE_BACK = 0.4
"""A thread is given back when less than this share of a core is left for it: two threads beside one busy program get two
thirds of a core each, so that program is seen to use two thirds of one."""

TAKE = 0.75
"""A thread is taken when this much of a core has become free; the distance to GIVE_BACK keeps the number from swinging."""


@dataclass(frozen=True)
class Free:
    """Cores left for us. cores: those that we may use, less what others use. why: what keeps them from being all; "" if nothing."""

    cores: float
    why: str


def choose_threads(asked: int, before: int = 0, deterministic: bool = False) -> tuple[int, str, bool]:
    """(threads, why, whether the run may change them). asked: --threads, 0 for none. before: of the run that is continued, 0 for
    none: sums depend on it. deterministic: whatever other programs do."""
    if asked:
        return asked, _("asked for"), False
    if before:
        return before, _("as before, so that sums are the same"), not deterministic
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads(), "OMP_NUM_THREADS", False
    most = torch.get_num_threads()
    if deterministic:
        limit = cpu_use.container_limit()
        limit_of_threads = most if limit is None else min(most, max(1, int(limit)))
        return limit_of_threads, "" if limit is None or limit_of_threads == most else _limit_text(limit), False
    first, unknown = cpu_use.read()
    if first is None:
        return most, unknown, False
    time.sleep(WINDOW)
    second, unknown = cpu_use.read()
    if second is None:
        return most, unknown, False
    free = free_cores(first, second)
    threads = fitting(free.cores, most)
    return threads, free.why if threads < most else "", True


def free_cores(before: Reading, after: Reading) -> Free:
    """What the machine and our container leave us between two readings."""
    busy = cpu_use.others(before, after)
    cores = len(cpu_use.allowed_cores()) or os.cpu_count() or 1
    free = Free(cores - busy, _("other programs keep {used:.1f} cores busy").format(used=busy))
    limit = cpu_use.container_limit()
    if limit is not None:
        inside = cpu_use.others_in_container(before, after)
        if int(limit) - inside < free.cores:  # half a core more would stop all threads now and then, in the middle of a loop
            more = _(", and other programs in it use {inside:.1f}").format(inside=inside) if inside >= 0.1 else ""
            return Free(int(limit) - inside, _limit_text(limit) + more)
    return free


def fitting(free: float, most: int) -> int:
    """Threads for so many free cores."""
    return min(most, max(1, int(free + 1 - GIVE_BACK)))


class ThreadWatch:
    """Looks now and then during a run, and gives threads back or takes them as other programs come and go.

    most: never more threads than this. Only for runs whose threads nobody has fixed.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.every = LOOK_SECONDS
        self._last, _ = cpu_use.read()

    def look(self) -> str:
        """Changes torch's threads where that is due, and says why; "" when nothing changed."""
        now = time.perf_counter()
        if self._last is None or now - self._last.at < self.every:
            return ""
        reading, why = cpu_use.read()
        self.every = max(LOOK_SECONDS, 100 * (time.perf_counter() - now))
        before, self._last = self._last, reading
        if reading is None:
            return why
        free = free_cores(before, reading)
        current = torch.get_num_threads()
        target = fitting(free.cores, self.most)
        if target == current or (target > current and free.cores < current + TAKE):
            return ""
        torch.set_num_threads(target)
        reason = free.why if target < current else _("cores have become free")
        return _("threads {current} -> {expected}: {reason}").format(current=current, expected=target, reason=reason)


def _limit_text(limit: float) -> str:
    return ngettext("the container may use {limit:g} core", "the container may use {limit:g} cores", limit).format(
        limit=limit
    )
