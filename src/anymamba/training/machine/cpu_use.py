"""Who uses the processor: counters of the machine, of our own process tree and of our container, read twice and compared.

Counters and not the load average: that one decays over minutes, and still shows a program that has ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from anymamba.language import _

_GROUPS = Path("/sys/fs/cgroup")
_IDLE = ("idle", "iowait", "guest", "guest_nice", "steal")
"""Fields of a core's times that are no work of this system: guests are in user already, and stolen time belongs to another machine."""


@dataclass(frozen=True)
class Reading:
    """Counters in CPU seconds. at: the clock. everyone: work on the cores that this process may use. own: of our process tree.
    group: of everyone in our container, 0 where there is none."""

    at: float
    everyone: float
    own: float
    group: float = 0.0


def read() -> tuple[Reading | None, str]:
    """(the counters now, ""), or (None, why they cannot be read)."""
    try:
        mine = allowed_cores()
        cores = psutil.cpu_times(percpu=True)
        busy = sum(_work(core) for number, core in enumerate(cores) if number in mine or not mine)
        return Reading(time.perf_counter(), busy, _own_seconds(), _group_seconds()), ""
    except (OSError, psutil.Error, NotImplementedError, RuntimeError) as error:  # a closed /proc, an unknown system
        why = f"{type(error).__name__}: {error}"
        return None, _("what other programs use cannot be read ({why})").format(why=why)


def others(before: Reading, after: Reading) -> float:
    """Cores that other programs kept busy between two readings."""
    seconds = max(1e-6, after.at - before.at)
    return max(0.0, (after.everyone - before.everyone) - (after.own - before.own)) / seconds


def others_in_container(before: Reading, after: Reading) -> float:
    """The same for the programs that share our container's limit."""
    seconds = max(1e-6, after.at - before.at)
    return max(0.0, (after.group - before.group) - (after.own - before.own)) / seconds


def allowed_cores() -> set[int]:
    """Numbers of the cores that this process may run on (cpuset, taskset); empty where the system does not say, as macOS."""
    process = psutil.Process()
    return set(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else set()


def container_limit() -> float | None:
    """Cores that our control group and those above it may use, version 2 or 1; None without a limit."""
    limits = []
    for folder in _group_folders(""):
        try:
            share, period = (folder / "cpu.max").read_text("ascii").split()
            limits += [] if share == "max" else [int(share) / int(period)]
        except (OSError, ValueError):
            continue
    for folder in _group_folders("cpu"):
        try:
            quota = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
            limits += [] if quota <= 0 else [quota / int((folder / "cpu.cfs_period_us").read_text("ascii"))]
        except (OSError, ValueError):
            continue
    return min(limits) if limits else None


def _work(core: object) -> float:
    fields = getattr(core, "_fields", ())
    return sum(float(getattr(core, name)) for name in fields if name not in _IDLE)


def _own_seconds() -> float:
    root = psutil.Process()
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:  # the other processes of torchrun are ours too
        root = root.parent() or root
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it ended just now, and its parent's counter has its time
            continue
        total += times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def _group_seconds() -> float:
    """CPU seconds of the smallest control group that has a limit; 0 without one."""
    for folder in _group_folders(""):
        try:
            if (folder / "cpu.max").read_text("ascii").startswith("max"):
                continue
            fields = dict(line.split() for line in (folder / "cpu.stat").read_text("ascii").splitlines())
            return int(fields["usage_usec"]) / 1e6
        except (OSError, ValueError, KeyError):
            continue
    for limited, counted in zip(_group_folders("cpu"), _group_folders("cpuacct")):
        try:
            if int((limited / "cpu.cfs_quota_us").read_text("ascii")) > 0:
                return int((counted / "cpuacct.usage").read_text("ascii")) / 1e9
        except (OSError, ValueError):
            continue
    return 0.0


def _group_folders(controller: str) -> Iterator[Path]:
    """Our control group and those above it, from the inside out; controller: "" for version 2.

    In a container the path that /proc names may not be there: its own group is then mounted as the root.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller not in names.split(","):
            continue
        mounts = [_GROUPS] if not controller else [_GROUPS / names, _GROUPS / controller]
        mount = next((folder for folder in mounts if folder.is_dir()), None)
        if mount is None:
            continue
        inner = mount / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder == mount or mount in folder.parents)
