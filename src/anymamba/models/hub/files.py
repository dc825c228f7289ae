"""Files of a checkpoint folder: JSON that says where it is broken, downloads by name, folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _


def read_json(path: Path, missing: Any = None) -> Any:
    """The document, or ``missing`` when there is no such file. Raises AnymambaError for one that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return missing
    except ValueError as error:
        raise AnymambaError(
            "checkpoint",
            _("{path} is not valid JSON").format(path=path),
            why=str(error),
            fix=_("the file was cut short or edited: copy or download it again"),
        ) from error


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def listing(folder: Path) -> str:
    """The names in a folder, for an error message."""
    if not folder.is_dir():
        return _("no such folder")
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    more = _(" and {count} more").format(count=len(names) - 20) if len(names) > 20 else ""
    return (", ".join(names[:20]) + more) or _("nothing")


def newest_step(folder: Path) -> Path:
    """The folder itself; for a run of ``anymamba train``, the step folder that its last.txt names."""
    pointer = folder / "last.txt"
    if pointer.is_file() and not (folder / "config.json").exists():
        return folder / pointer.read_text(encoding="utf-8").strip()
    return folder


def looks_like_hub_name(name: str) -> bool:
    """``owner/name`` or ``name``: what huggingface_hub accepts, and no path that a user would write."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not name.startswith(".")


def download(name: str, patterns: Sequence[str]) -> Path:
    """The local folder with those files of a hub repository; files that it does not have are left out.

    Raises AnymambaError with the library's own words when it cannot be had.
    """
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:
        if type(error).__name__ == "GatedRepoError":
            raise AnymambaError(
                "checkpoint",
                _("{name} is gated: its owner lets in who has accepted the licence").format(name=name),
                why=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
                fix=_(
                    "accept it at https://huggingface.co/{name}, then run `hf auth login`; or name a local folder "
                    "that has the files"
                ).format(name=name),
            ) from error
        raise AnymambaError(
            "checkpoint",
            _("{name} is no folder here, and cannot be downloaded from the Hugging Face hub").format(name=name),
            why=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            fix=_(
                "check the spelling, the connection (HF_ENDPOINT for a mirror) and, for a private model, `hf auth "
                "login`"
            ),
        ) from error


@contextmanager
def whole_folder(target: Path, replaces: Sequence[str] = ("*",)) -> Iterator[Path]:
    """A new folder to write into, beside ``target``, that takes its name when the block ends well; else nothing changes.

    replaces: names (with wildcards) of the old folder that do not come along; others that the new folder lacks do.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        _flush(temporary)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            os.replace(target, old / "folder")
            os.replace(temporary, target)
            for entry in (old / "folder").iterdir():
                replaced = any(fnmatch(entry.name, pattern) for pattern in replaces)
                if not replaced and not (target / entry.name).exists():
                    os.replace(entry, target / entry.name)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(folder: Path) -> None:
    """The content reaches the disk before the new name does."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
