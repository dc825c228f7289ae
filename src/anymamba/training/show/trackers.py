"""--report-to: the same numbers as in metrics.jsonl, to a tracker that the user has installed. None is a dependency."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

from anymamba.errors import AnymambaError
from anymamba.language import _

INSTALL = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


class Tracker(Protocol):
    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def open_trackers(names: list[str], run: Path, config: dict[str, Any]) -> list[Tracker]:
    """Raises AnymambaError for an unknown name, or with the command that installs what is missing."""
    trackers: list[Tracker] = []
    for name in check_names(names):
        try:
            trackers.append(_TensorBoard(run) if name == "tensorboard" else _WandbLike(name, run, config))
        except ImportError as error:
            raise AnymambaError(
                "dependency",
                _("--report-to {name}: the package is not installed").format(name=name),
                why=str(error),
                fix=f"pip install {INSTALL[name]}",
            ) from error
    return trackers


def check_names(names: list[str]) -> list[str]:
    """The trackers, one a word. Raises AnymambaError for an unknown one."""
    words = [part.strip() for argument in names for part in argument.split(",")]
    for name in words:
        if name not in INSTALL:
            raise AnymambaError(
                "usage",
                _("--report-to: there is no tracker {name!r}").format(name=name),
                fix=_("choose from ") + ", ".join(INSTALL),
            )
    return words


class _TensorBoard:
    def __init__(self, run: Path) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(log_dir=str(run / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandbLike:
    """wandb, and trackio, which has the same three functions and keeps everything on this machine."""

    def __init__(self, name: str, run: Path, config: dict[str, Any]) -> None:
        self._module = importlib.import_module(name)
        self._module.init(project="anymamba", name=run.name, config=config)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._module.log(values, step=step)

    def close(self) -> None:
        self._module.finish()
