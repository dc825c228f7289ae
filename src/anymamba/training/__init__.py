"""Training on one process or many: language modelling (stage 1) and tuning on instructions (stage 2).

    data/   files and records to documents, documents to token files, token files to rows with seq_idx
    run/    what the user chose and what follows from it: options, folder, checkpoints, machine, model; ``anymamba.train``
    machine/ threads, memory, disk, precision and processes, and how long a step takes
    loop/   the steps: optimiser, schedule, validation, samples, time limits, stopping
    show/   what people see: live line, notebook, curves as text, SVG and PNG, trackers

Parallelism, precision and checkpointing are put around the models from here; no model file knows of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anymamba.lazy import lazy_names

if TYPE_CHECKING:
    from anymamba.training.loop.loop import Result as Result
    from anymamba.training.run.config import TrainConfig as TrainConfig
    from anymamba.training.run.runs import Curve as Curve
    from anymamba.training.run.runs import Run as Run

_WHERE = {
    "Run": "anymamba.training.run.runs", "Curve": "anymamba.training.run.runs", "Result": "anymamba.training.loop.loop",
    "TrainConfig": "anymamba.training.run.config",
}  # fmt: skip
__all__ = list(_WHERE)

_lazy, __dir__ = lazy_names(__name__, _WHERE)
if not TYPE_CHECKING:
    __getattr__ = _lazy
