"""Training on one process or many: language modelling (stage 1) and tuning on instructions (stage 2).

    config      what the user chose (flags over a TOML file)      derive      everything that follows from --size and the data
    readers     files to documents                                corpus      documents to memory-mapped token files
    instruct    instruction records to token files                packing     token files to rows with seq_idx
    optim       AdamW and its decay groups                        schedule    learning rate over the steps
    precision   bf16 or not, and why                              memory      what is used, what is left, the micro-batch that fits
    parallel    torchrun: DDP, or FSDP2 with --shard              loop        the steps
    pace        seconds of a step, as of late                     timelimit   --max-minutes: how many steps fit
    probe       the same before the first step                    planning    --plan: what a run would take
    threads     as many as cores are idle                         cpu_use     what other programs use
    validation  on how many rows, the best, early stopping        continuing  a run that goes on, and what that changes
    runfolder   runs/<name>: which configuration owns it          checkpoint  step folders, written whole or not at all
    report      the live line, metrics.jsonl, trackers            chart, picture  the loss curve in the terminal, SVG, PNG

Parallelism, precision and checkpointing are put around the models from here; no model file knows of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anymamba.lazy import lazy_names

if TYPE_CHECKING:
    from anymamba.training.config import TrainConfig as TrainConfig
    from anymamba.training.loop import Result as Result
    from anymamba.training.runs import Curve as Curve
    from anymamba.training.runs import Run as Run

_WHERE = {
    "Run": "anymamba.training.runs", "Curve": "anymamba.training.runs", "Result": "anymamba.training.loop",
    "TrainConfig": "anymamba.training.config",
}  # fmt: skip
__all__ = list(_WHERE)

_lazy, __dir__ = lazy_names(__name__, _WHERE)
if not TYPE_CHECKING:
    __getattr__ = _lazy
