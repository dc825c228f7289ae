"""Child processes: a Python that a program starts (a spawned worker, torchrun's ranks) gets the drop-in from its environment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "children"
OVERRIDE = "ANYMAMBA_DROPIN_OVERRIDE"


def to_children(override: Iterable[str] = ()) -> None:
    """Changes this process's environment so that every Python started from here on has the drop-in.

    Children started with -I, -E or -S, which ignore the environment or the site module, do not. override: as in finder.install.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *(entry for entry in entries if entry and entry != str(FOLDER))])
    os.environ[OVERRIDE] = ",".join(override)
