"""The facts of another machine: from a file that `anymamba doctor --json` wrote there, or of a known image by its name."""

from __future__ import annotations

import json
from typing import Any, Dict

from anymamba.doctor.compat import table
from anymamba.errors import AnymambaError
from anymamba.language import _

NEEDED = ("system", "python", "torch", "gpu", "cuda", "compiler", "packages")


def facts_of(name: str) -> Dict[str, Any]:
    """name: a path, or one of ``table.images()``. Raises AnymambaError("usage") for what is neither."""
    image = table.image(name)
    if image is not None:
        return dict(image["facts"])
    try:
        document = json.loads(read_text(name))
    except (OSError, ValueError) as error:
        raise AnymambaError(
            "usage",
            _("{name} cannot be read: {error}").format(name=name, error=error),
            None,
            _("give a file that `anymamba doctor --json` wrote on that machine, or one of: {images}").format(
                images=", ".join(table.images())
            ),
        ) from error
    facts = document.get("facts", document) if isinstance(document, dict) else {}
    missing = [key for key in NEEDED if not isinstance(facts.get(key), dict)]
    if missing:
        raise AnymambaError(
            "usage",
            _("{name} lacks: {names}").format(name=name, names=", ".join(missing)),
            None,
            _("make it with `anymamba doctor --json` on that machine"),
        )
    return dict(facts)


def read_text(path: str) -> str:
    """A small text file; PowerShell's `>` writes UTF-16."""
    with open(path, "rb") as file:
        data = file.read(20_000_000)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    return data.decode("utf-8-sig", "replace")
