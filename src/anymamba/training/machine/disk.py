"""Room on the disk: asked for before, and named when it runs out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.training.machine import memory

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def require(folder: Path, size: int, what: str) -> None:
    """Raises AnymambaError when the disk of this folder has not ``size`` bytes left; what: what they are needed for."""
    free = shutil.disk_usage(existing(folder)).free
    if free < size:
        raise AnymambaError(
            "disk",
            _("not enough disk space for {what} in {folder}").format(what=what, folder=folder),
            why=_("it takes {size}, and {free} are free").format(size=memory.text(size), free=memory.text(free)),
            fix=_("free some space, or choose another disk with --out"),
        )


@contextmanager
def full_disk_is_named(folder: Path) -> Iterator[None]:
    """Turns the system's "no space left" inside the block into an AnymambaError; other errors pass."""
    try:
        yield
    except Exception as error:
        # safetensors reports its own error type, with the system's number in the text
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or any(f"os error {full}" in str(error) for full in FULL):
            raise AnymambaError(
                "disk",
                _("the disk of {folder} is full").format(folder=folder),
                why=str(error),
                fix=_("earlier checkpoints are whole: free some space and continue with --resume auto"),
            ) from error
        raise
