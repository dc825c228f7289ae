"""One install at a time in an environment: a file that the operating system holds for a process until that process ends."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from anymamba.cachefolder import cache_folder


class Lock:
    """state: the folder of the environment's own records. Held from a successful take() until the process ends or lets go."""

    def __init__(self, state: Path) -> None:
        # it lies beside the logs and not in the environment, which must look untouched after a failure
        name = hashlib.sha256(os.path.abspath(state).encode("utf-8")).hexdigest()[:16]
        folder = cache_folder() / "install-locks"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / f"{name}.lock", "a+b")  # noqa: SIM115 - closed by release

    def take(self, patience: float = 15.0) -> bool:
        """False when another process still holds it after patience seconds: a killed install is put right in less."""
        deadline = time.monotonic() + patience
        while not self._try():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def release(self) -> None:
        self._file.close()

    def _try(self) -> bool:
        try:
            if sys.platform == "win32":
                import msvcrt

                self._file.seek(0)
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody else holds it
            return False
        return True
