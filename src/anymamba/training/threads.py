"""How many CPU threads: one for every core that is ours and idle, since threads that wait for a core hold up all the others.

torch takes one for every core of the machine, also in a container that may use two of sixty-four, and on a machine where other
programs run; a parallel loop is then as slow as its slowest thread.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from anymamba.language import say


def choose_threads(asked: int, before: int = 0, deterministic: bool = False) -> tuple[int, str]:
    """(threads, why). asked: --threads, 0 for none. before: of the run that is continued, 0 for none: sums depend on it.
    deterministic: whatever other programs do now."""
    if asked:
        return asked, say("asked for", "由用户指定")
    if before:
        return before, say("as before, so that sums are the same", "与之前相同，使求和结果一致")
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads(), "OMP_NUM_THREADS"
    most, why = torch.get_num_threads(), ""
    quota = container_cores()
    if quota is not None and quota < most:
        most, why = max(1, int(quota)), say(f"the container may use {quota:g} cores", f"容器可用 {quota:g} 个核心")
    busy = 0.0 if deterministic else others_load()
    if busy >= 0.75 and most > 1:
        return max(1, most - round(busy)), say(
            f"other programs keep about {busy:.1f} cores busy", f"其他程序约占用 {busy:.1f} 个核心"
        )
    return most, why


def container_cores() -> float | None:
    """Cores that the control group may use, version 2 or 1; None without a limit."""
    try:
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return None if share == "max" else int(share) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        quota = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text("ascii"))
    except (OSError, ValueError):
        return None


def others_load() -> float:
    """Cores that the whole machine kept busy in the last minute, less those that do not concern us; 0 where the system does not say.

    On a machine of many cores, load on the others leaves ours alone.
    """
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows
        return 0.0
    spare = (os.cpu_count() or 1) - torch.get_num_threads()
    return max(0.0, load - spare)
