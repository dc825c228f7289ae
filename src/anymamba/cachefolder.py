"""Where compiled kernels and self-check results are kept. Standard library only.

ANYMAMBA_CACHE_DIR names the folder; else the platform's own cache folder. Everything in it can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

from anymamba.errors import warn_once
from anymamba.language import _


def cache_folder() -> Path:
    """The folder, which need not exist yet."""
    path = os.environ.get("ANYMAMBA_CACHE_DIR")
    if path:
        return Path(path).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "anymamba"


def read_bytes(name: str) -> Optional[bytes]:
    """The cached file, or None when there is none or it cannot be read."""
    try:
        return (cache_folder() / name).read_bytes()
    except OSError:
        return None


def write_bytes(name: str, content: bytes) -> bool:
    """Writes under a temporary name and renames, so that a reader or a crash never sees half a file.

    A folder that cannot be written to costs speed at the next start, nothing else: said once, then False.
    """
    target = cache_folder() / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=str(target.parent))
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, target)
    except OSError as error:
        warn_once(
            "cache-folder",
            _(
                "the cache folder {folder} cannot be written ({error}): kernels are compiled again at every start; "
                "set ANYMAMBA_CACHE_DIR to a folder of yours"
            ).format(folder=target.parent, error=error),
        )
        return False
    return True


def read_json(name: str) -> Any:
    """The cached JSON document, or None."""
    content = read_bytes(name)
    if content is None:
        return None
    try:
        return json.loads(content.decode("utf-8"))
    except ValueError:
        return None


def write_json(name: str, document: Any) -> bool:
    """See write_bytes."""
    return write_bytes(name, json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8"))
