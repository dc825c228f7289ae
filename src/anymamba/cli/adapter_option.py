"""--adapter of the verbs that run a model."""

from __future__ import annotations

import argparse
import itertools
import re
from pathlib import Path

from anymamba.errors import AnymambaError
from anymamba.language import _


def add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="[NAME=]DIR",
        help=_("LoRA adapter in PEFT's format; may be repeated: all of them act"),
    )  # fmt: skip


def adapters_of(values: list[str]) -> dict[str, str]:
    """Of --adapter: name -> folder. Raises AnymambaError (usage) for a name that is there twice."""
    adapters: dict[str, str] = {}
    for value in values:
        named = re.fullmatch(r"([A-Za-z0-9_-]+)=(.+)", value)
        folder = value if named is None or Path(value).expanduser().exists() else named[2]
        name = named[1] if named is not None and folder != value else _unused_name(folder, adapters)
        if name in adapters:
            raise AnymambaError("usage", _("--adapter: the name {name} is there twice").format(name=name))
        adapters[name] = folder
    return adapters


def _unused_name(folder: str, adapters: dict[str, str]) -> str:
    if not adapters:
        return "default"
    name = re.sub(r"[^A-Za-z0-9_-]", "-", Path(folder).name) or "adapter"
    return next(one for one in (name, *(f"{name}-{i}" for i in itertools.count(2))) if one not in adapters)
