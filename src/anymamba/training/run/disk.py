"""Room on the disk: asked for before, and named when it runs out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anymamba.errors import AnymambaError
from anymamba.language import say
from anymamba.training.run import memory

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
            say(f"not enough disk space for {what} in {folder}", f"{folder} 的磁盘空间不足以存放{what}"),
            why=say(
                f"it takes {memory.text(size)}, and {memory.text(free)} are free",
                f"需要 {memory.text(size)}，剩余 {memory.text(free)}",
            ),
            fix=say("free some space, or choose another disk with --out", "请清理空间，或用 --out 选择其他磁盘"),
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
                say(f"the disk of {folder} is full", f"{folder} 所在磁盘已满"),
                why=str(error),
                fix=say(
                    "earlier checkpoints are whole: free some space and continue with --resume auto",
                    "此前的检查点完好：请清理空间后用 --resume auto 继续",
                ),
            ) from error
        raise
