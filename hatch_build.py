"""The wheel carries the Chinese catalog compiled; the text that it is compiled from stays in the source tree."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CATALOG = "anymamba/locale/zh/LC_MESSAGES/anymamba.mo"


class CompiledCatalog(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return  # the package reads the text in the source tree
        source = Path(self.root) / "src"
        compiled = runpy.run_path(str(source / "anymamba" / "catalog.py"))["compiled"]
        self.folder = tempfile.TemporaryDirectory()
        target = Path(self.folder.name) / "anymamba.mo"
        target.write_bytes(compiled((source / CATALOG).with_suffix(".po").read_bytes()))
        build_data["force_include"][str(target)] = CATALOG

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()
