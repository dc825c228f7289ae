"""Commands written once for bash, translated to PowerShell."""

from __future__ import annotations

import re
from typing import Tuple

from anymamba.doctor.rule import Remedy

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(\"[^\"]*\"|'[^']*'|\S*)\s+")
_EXPORT = re.compile(r"^export\s+")


def shell_of(system: str) -> str:
    return "powershell" if system == "windows" else "bash"


def commands(remedy: Remedy, system: str) -> Tuple[str, ...]:
    """The remedy's commands for the shell of that system."""
    if system != "windows":
        return remedy.commands
    if remedy.powershell is not None:
        return remedy.powershell
    return tuple(to_powershell(command) for command in remedy.commands)


def to_powershell(command: str) -> str:
    """``A=1 B=2 pip install x && y`` becomes ``$env:A="1"; $env:B="2"; pip install x; y``."""
    return "; ".join(_one(part.strip()) for part in command.split("&&"))


def _one(command: str) -> str:
    exported = bool(_EXPORT.match(command))
    rest = _EXPORT.sub("", command) + (" " if exported else "")
    settings = []
    found = _ASSIGNMENT.match(rest)
    while found:
        value = found.group(2).strip("\"'")
        settings.append('$env:{}="{}"'.format(found.group(1), re.sub(r"\$(\w+)", r"$env:\1", value)))
        rest = rest[found.end() :]
        found = _ASSIGNMENT.match(rest)
    rest = rest.strip().replace("python3 ", "python ")
    return "; ".join(settings + ([rest] if rest else []))
