"""What a run consists of before its first step, and what comes of it."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer
from anymamba.training.data.rows import Feeder, Rows
from anymamba.training.loop.evaluate import Score
from anymamba.training.machine.parallel import Processes
from anymamba.training.machine.threads import ThreadWatch
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.continuing import Progress
from anymamba.training.run.derive import RunPlan
from anymamba.training.run.runfolder import RunFolder
from anymamba.training.show.report import Reporter
from anymamba.training.show.trackers import Tracker


@dataclass
class Run:
    """Everything the loop works with. model: bare; wrapped: what is called. held_out: rows of validation, or None. done: where the
    run stands. begin: of the command, by time.perf_counter; step_seconds: of a step, as a probe measured it, 0 without. question:
    ids that samples of stage 2 begin with. kept_row: bytes of activations that a row keeps for its backward pass, 0: not measured."""

    config: TrainConfig
    plan: RunPlan
    folder: RunFolder
    processes: Processes
    reporter: Reporter
    trackers: list[Tracker]
    tokenizer: Tokenizer
    model: LanguageModel
    wrapped: nn.Module
    feeder: Feeder
    held_out: Rows | None
    bytes_per_token: float | None
    micro_batch: int
    dtype: torch.dtype | None
    decaying: set[str]
    thread_watch: ThreadWatch | None = None
    done: Progress = field(default_factory=Progress)
    begin: float = 0.0
    step_seconds: float = 0.0
    question: list[int] = field(default_factory=list)
    kept_row: int = 0

    @property
    def base(self) -> str:
        """Of a run that trains adapters: where the frozen model is, whatever the folder that somebody stands in; else empty."""
        if self.config.lora_options is None:
            return ""
        path = Path(self.config.start).expanduser()
        return str(path.resolve()) if path.exists() else self.config.start

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, dtype=self.dtype)


@dataclass(frozen=True)
class Result:
    """checkpoint: the last step folder. score: of the last validation, None when nothing is held out. exit_code: 0, or 130
    after Ctrl-C. tokens, seconds: of the whole run, parts before a resume included. tokens_per_s: of this part's steps.
    best: the folder with the weights of the best validation, None without one; best_step: when that was."""

    checkpoint: Path
    steps: int
    loss: float
    score: Score | None
    exit_code: int
    tokens: int
    seconds: float
    tokens_per_s: float
    matmul_share: float | None
    best: Path | None = None
    best_step: int = 0
