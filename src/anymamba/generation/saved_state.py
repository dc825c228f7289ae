"""A text that was read once, kept on disk: the recurrent state and the tokens it has not read yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anymamba.errors import AnymambaError
from anymamba.generation.engine import Reader
from anymamba.language import _
from anymamba.models.cache import Cache
from anymamba.models.lm import LanguageModel


def save(path: str | Path, reader: Reader, pending: Sequence[int]) -> None:
    """pending: ids at the end of the text that the reader has not read, such as the token chosen last."""
    reader.leave_stepper()
    path = Path(path)
    if not path.parent.is_dir():
        raise AnymambaError("state", _("there is no folder {folder}").format(folder=path.parent))
    reader.cache.save(path, pending=list(pending))


def load(path: str | Path, model: LanguageModel, rows: int = 1) -> tuple[Cache, list[int]]:
    """The state, spread over ``rows`` rows, and the ids to be read before anything else."""
    cache = model.make_cache(rows)
    notes = cache.load(path)
    return cache, [int(token) for token in notes.get("pending", [])]
