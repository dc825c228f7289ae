"""``anymamba.train`` and what it returns: a run whose model, curve and result are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymamba.language import _
from anymamba.models import hub
from anymamba.training.run.config import PYTHON, TrainConfig, checked
from anymamba.training.run.runfolder import read_metrics
from anymamba.training.show.axes import X_NAMES, Y_NAMES, Axes, curves_of
from anymamba.training.show.notebook import NotebookReporter, in_notebook
from anymamba.training.show.report import Reporter
from anymamba.training.show.svg import svg

if TYPE_CHECKING:
    from anymamba.generation.model import Model
    from anymamba.training.loop.loop import Result


class Curve:
    """The losses of a run over its steps, in nats a token; a notebook shows it as a picture.

    training, held_out: (step, loss). metrics: every row of metrics.jsonl.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics = read_metrics(folder)
        self.training = [(int(row["step"]), float(row["loss"])) for row in self.metrics if "loss" in row]
        self.held_out = [(int(row["step"]), float(row["val_loss"])) for row in self.metrics if "val_loss" in row]
        self._folder = folder

    def svg(self) -> str:
        """The curve as an SVG document. Raises AnymambaError when there are no losses yet."""
        return svg(Axes(curves_of([self._folder], "step", "loss", 0.0), _(X_NAMES["step"]), _(Y_NAMES["loss"])))

    def _repr_svg_(self) -> str | None:
        return self.svg() if self.training else None

    def __repr__(self) -> str:
        if not self.training:
            return "Curve(no steps yet)"
        return f"Curve({len(self.training)} losses, last {self.training[-1][1]:.4f} at step {self.training[-1][0]})"


class Run:
    """A run folder of ``anymamba train``. result: what its last part came to; None for a run that was only opened."""

    def __init__(self, folder: str | Path, result: Result | None = None) -> None:
        self.folder = Path(folder).expanduser()
        self.result = result

    @property
    def checkpoint(self) -> Path:
        """The folder of the newest step, which transformers reads too. Raises AnymambaError where there is none yet."""
        return hub.find(self.folder)

    @cached_property
    def model(self) -> Model:
        """The model of the newest checkpoint, with its tokenizer, on the fastest device here."""
        from anymamba.generation.model import load

        return load(self.checkpoint)

    @property
    def curve(self) -> Curve:
        """The losses so far."""
        return Curve(self.folder)

    def __repr__(self) -> str:
        if self.result is None:
            return f"Run({str(self.folder)!r})"
        bits = self.result.score.bits_per_byte if self.result.score else None
        score = "" if bits is None else f", {bits:.3f} bits per byte held out"
        return f"Run({str(self.folder)!r}: {self.result.steps} steps, loss {self.result.loss:.4f}{score})"


def train(
    data: str | Path | Sequence[str | Path],
    size: str = "tiny",
    *,
    out: str | Path | None = None,
    start: str | Path | None = None,
    instruct: bool = False,
    resume: str | Path | None = None,
    max_minutes: float = 0.0,
    steps: int = 0,
    progress: bool = True,
    **options: Any,
) -> Run:
    """Trains a language model on text and returns the run.

    data: files, folders or "hf:OWNER/NAME". size: the dial (``anymamba sizes``). out: the run's folder, runs/<data>-<size> by
    default. start: a checkpoint to train further. instruct: stage 2, data are instruction records. resume: "auto" or a step
    folder. max_minutes: stop within this time. progress: say on stderr, or in the notebook, how far it is. options: every
    other option of ``anymamba train --help``, with underscores (``batch_tokens=4096``); None: as if not said.

    Raises AnymambaError for whatever is wrong with an option, the data, the folder or the machine.
    """
    from anymamba.training.run.train import default_folder
    from anymamba.training.run.train import train as run_training

    files = [data] if isinstance(data, (str, Path)) else list(data)
    values: dict[str, Any] = {
        "data": [str(file) for file in files], "size": size, "instruct": instruct, "max_minutes": float(max_minutes),
        "steps": steps, "out": None if out is None else str(out), "start": None if start is None else str(start), **options,
    }  # fmt: skip
    config = TrainConfig(**checked({name: value for name, value in values.items() if value is not None}, PYTHON))
    config.out = config.out or default_folder(config)
    result = run_training(config, "" if resume is None else str(resume), reporter_for(progress))
    return Run(config.out, result)


def reporter_for(progress: bool) -> Reporter:
    """Where this program's progress belongs: a notebook's output cell, or stderr."""
    if progress and in_notebook():
        return NotebookReporter()
    return Reporter(quiet=not progress)
