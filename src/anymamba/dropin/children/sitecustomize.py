"""Imported at the start of every Python that a program under ``anymamba run`` starts: the drop-in is active there as well.

``anymamba run`` puts this folder, which has nothing else, first in PYTHONPATH. A sitecustomize that was there before runs afterwards.
Standard library only; where anymamba is not installed (another environment's Python) it does nothing.
"""

import os
import sys


def _start() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    try:
        from anymamba.dropin import finder
    except ImportError:
        return
    finder.install(name for name in os.environ.get("ANYMAMBA_DROPIN_OVERRIDE", "").split(",") if name)


def _run_the_one_before() -> None:
    this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401 - the one that would have run without us
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = this


if __name__ == "sitecustomize":  # imported by Python itself
    _start()
    _run_the_one_before()
