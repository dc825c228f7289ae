"""One .pth file of ours in site-packages makes the drop-in active in every program of an environment. Nothing else is written."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _

NAME = "zz_anymamba_dropin.pth"  # .pth files are read in the order of their names: after that of an editable installation

_LINE = "import importlib.util as u; u.find_spec('anymamba') and __import__('anymamba.dropin.finder').dropin.finder.install({override!r})\n"


def path(folder: str | Path | None = None) -> Path:
    """The file in that folder (None: site-packages of this interpreter)."""
    return Path(folder or sysconfig.get_paths()["purelib"]) / NAME


def enable(folder: str | Path | None = None, override: tuple[str, ...] = ()) -> Path:
    """Writes the file and returns its path. override: names for which ours is served although a real package is installed.

    Raises AnymambaError if the folder cannot be written.
    """
    file = path(folder)
    try:
        file.write_text(_LINE.format(override=override), encoding="utf-8")
    except OSError as error:
        raise AnymambaError(
            "dropin",
            _("cannot write {file}").format(file=file),
            why=str(error),
            fix=_("use a virtual environment, or `anymamba run`, which needs no file"),
        ) from error
    return file


def disable(folder: str | Path | None = None) -> Path | None:
    """Removes the file; None if there was none. Raises AnymambaError if it is not ours or cannot be removed."""
    file = path(folder)
    if not file.exists():
        return None
    if "anymamba.dropin" not in file.read_text(encoding="utf-8", errors="replace"):
        raise AnymambaError("dropin", _("{file} was not written by anymamba").format(file=file))
    try:
        file.unlink()
    except OSError as error:
        raise AnymambaError("dropin", _("cannot remove {file}").format(file=file), why=str(error)) from error
    return file


def status(folder: str | Path | None = None) -> dict[str, Any]:
    """file: where it is or would be; enabled: is it there."""
    file = path(folder)
    return {"file": str(file), "enabled": file.is_file()}
