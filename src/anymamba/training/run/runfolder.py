"""A run's folder: which configuration it belongs to, and its running records.

    runs/<name>/  run.json        configuration, derived values with their reasons, versions, machine, backends
                  metrics.jsonl   a JSON object a line: steps and validations
                  samples.txt     what the model wrote on the way
                  data/           the tokenised corpus; val/ that of --val
                  step-000500/    see ``checkpoint.py``
                  best/           weights of the best validation
                  last.txt
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.hub import files
from anymamba.training.machine import disk
from anymamba.training.run import checkpoint
from anymamba.training.run.checkpoint import Checkpoint
from anymamba.training.run.config import TrainConfig, checked

DATA = "data"

VAL = "val"
"""The token files of --val."""


class RunFolder:
    """An open run. resumed: the checkpoint to continue from, or None at a fresh start. before: the configuration so far."""

    def __init__(self, path: Path, resumed: Checkpoint | None, before: TrainConfig | None = None) -> None:
        self.path, self.resumed, self.before = path, resumed, before

    @property
    def data(self) -> Path:
        return self.path / DATA

    @property
    def val(self) -> Path:
        return self.path / VAL

    def write_run(self, document: dict[str, Any]) -> None:
        """Replaces run.json."""
        checkpoint.write_whole(self.path / "run.json", json.dumps(document, ensure_ascii=False, indent=2) + "\n")

    def read_run(self) -> dict[str, Any]:
        """The content of run.json."""
        return files.read_json(self.path / "run.json", missing={})

    def add_metrics(self, **values: Any) -> None:
        """Appends one line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps(values, ensure_ascii=False) + "\n")

    def add_sample(self, step: int, text: str) -> None:
        """Appends to samples.txt."""
        self._append("samples.txt", f"--- step {step}\n{text}\n\n")

    def _append(self, name: str, text: str) -> None:
        with disk.full_disk_is_named(self.path), open(self.path / name, "a", encoding="utf-8") as file:
            file.write(text)

    def forget_after(self, step: int) -> None:
        """Drops the metrics of steps beyond the checkpoint: they are about to be made again."""
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        checkpoint.write_whole(self.path / "metrics.jsonl", text)


def saved_config(path: Path) -> TrainConfig | None:
    """The configuration in the folder's run.json, or None when there is none. Raises AnymambaError for a foreign run.json."""
    document = files.read_json(path / "run.json")
    if document is None:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        raise AnymambaError(
            "run-folder",
            _("{file} was not written by anymamba").format(file=path / "run.json"),
            fix=_("choose another folder with --out"),
        )
    return TrainConfig(**checked(document["config"], str(path / "run.json")))


def open_run(config: TrainConfig, resume: str, main: bool = True) -> RunFolder:
    """resume: "" for a new run, "auto" (continue if there is anything to continue), or a step folder or run folder.

    Raises AnymambaError when the folder already holds a run and nothing was said about it, when it belongs to another
    configuration (each difference is named), or when what is to be resumed is not there.
    """
    path = Path(config.out).expanduser()
    before = saved_config(path)
    if not resume:
        # a run without a checkpoint has nothing to lose: it failed early, and is made anew
        if any(path.glob("step-*")):
            raise AnymambaError(
                "run-folder",
                _("{path} already holds a run").format(path=path),
                fix=_("continue it with --resume auto, or choose another folder with --out"),
            )
        found = None
    else:
        if before is not None:
            _same_run(path, config, before)
        found = checkpoint.newest(path) if resume == "auto" else _named(path, Path(resume).expanduser())
    if main:
        with disk.full_disk_is_named(path):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AnymambaError(
                    "run-folder", _("{path} cannot be made").format(path=path), why=str(error)
                ) from error
        checkpoint.sweep(path)
        run = RunFolder(path, found)
        if before is None or not resume:
            for folder in (run.data, run.val):
                shutil.rmtree(folder, ignore_errors=True)
        if found is None:
            run.forget_after(-1)
            run.write_run({"config": config_document(config)})
    return RunFolder(path, found, before)


def _same_run(path: Path, config: TrainConfig, before: TrainConfig) -> None:
    differences = config.differences(before)
    if differences:
        differences += [f"{flag}: {then!r} -> {now!r}" for _, flag, then, now in config.changes(before)]
        raise AnymambaError(
            "run-folder",
            _("{path} belongs to another configuration").format(path=path),
            why="; ".join(differences),
            fix=_(
                "leave those flags out to continue that run, or start another with --out (and --from a checkpoint of "
                "this one)"
            ),
        )


def _named(run: Path, path: Path) -> Checkpoint:
    checkpoint_found = checkpoint.newest(path) if (path / "run.json").is_file() else checkpoint.open_checkpoint(path)
    if checkpoint_found is None:
        raise AnymambaError("checkpoint", _("{path} has no checkpoint yet").format(path=path))
    if checkpoint_found.folder.parent.resolve() != run.resolve():
        raise AnymambaError(
            "run-folder",
            _("{folder} belongs to another run than {run}").format(folder=checkpoint_found.folder, run=run),
            fix=_("use --from to start a new run from it"),
        )
    return checkpoint_found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a crash cut short is left out. An empty list when there is no file."""
    file = path / "metrics.jsonl"
    rows: list[dict[str, Any]] = []
    if file.is_file():
        for line in file.read_text("utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
    return rows


def config_document(config: TrainConfig) -> dict[str, Any]:
    """The configuration as run.json keeps it."""
    return dataclasses.asdict(config)
