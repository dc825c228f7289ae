"""Installed distributions, read from their metadata: nothing is imported."""

from __future__ import annotations

from importlib import metadata
from typing import List, Optional


def version(name: str) -> Optional[str]:
    """The version, or None when there is no such distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def files(name: str) -> List[str]:
    """Absolute paths of the distribution's files; empty when its record is missing."""
    try:
        listed = metadata.distribution(name).files
    except metadata.PackageNotFoundError:
        return []
    return [str(entry.locate()) for entry in listed or ()]


def locate(name: str, file: str) -> Optional[str]:
    """The path of a file of the distribution, which need not exist; the record, long for torch, is not read."""
    try:
        return str(metadata.distribution(name).locate_file(file))
    except metadata.PackageNotFoundError:
        return None
