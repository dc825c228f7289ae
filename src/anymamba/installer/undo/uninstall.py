"""Removes what an install has added: the packages, and the dependencies that nothing else has come to need."""

from __future__ import annotations

import subprocess
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.installer.environment import Environment
from anymamba.installer.releases import MODULES
from anymamba.installer.undo import rollback
from anymamba.language import _


def removable(environment: Environment, packages: list[str]) -> tuple[list[str], list[str]]:
    """(distributions to remove, why others stay). packages: empty for all that the record names."""
    record = rollback.read_record(environment)
    added: dict[str, str] = record["added"]
    ours = set(added) | set(record["replaced"])
    requested = packages or [name for name in MODULES if name in ours]
    unknown = [name for name in requested if name not in ours]
    if unknown or not requested:
        raise AnymambaError(
            "uninstall",
            _("{packages} was not installed by anymamba in this environment").format(
                packages=", ".join(unknown) or "mamba-ssm, causal-conv1d"
            ),
            None,
            _("remove it yourself: pip uninstall {packages}").format(packages=" ".join(unknown or MODULES)),
        )
    installed, needs = environment.freeze(), environment.requirements()
    gone = {name for name in requested if name in installed}
    notes = []
    candidates = [name for name in added if name not in MODULES and name in installed]
    changed = True
    while changed:  # a dependency may be needed by another dependency that goes as well
        changed = False
        for name in candidates:
            users = [user for user, names in needs.items() if name in names and user not in gone and user != name]
            if name not in gone and not users:
                gone.add(name)
                changed = True
    for name in candidates:
        if name in gone and installed[name] != added[name]:
            gone.discard(name)
            notes.append(
                _("{name} stays: it was changed from {before} to {now} since").format(
                    name=name, before=added[name], now=installed[name]
                )
            )
        elif name not in gone:
            users = [user for user, names in needs.items() if name in names and user not in gone]
            notes.append(_("{name} stays: needed by {users}").format(name=name, users=", ".join(users)))
    for name, (old, __) in record["replaced"].items():
        if name in gone:
            notes.append(_("before the install, {name} was at {old}").format(name=name, old=old))
    return sorted(gone), notes


def remove(environment: Environment, names: list[str]) -> None:
    """Removes them and takes them off the record."""
    command = [environment.python, "-m", "pip", "uninstall", "-y", "--disable-pip-version-check", *names]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AnymambaError("uninstall", _("pip could not remove them"), done.stderr.strip()[-400:])
    record: dict[str, Any] = rollback.read_record(environment)
    remaining = {key: {name: value for name, value in record[key].items() if name not in names} for key in record}
    if any(remaining.values()):
        rollback.write(environment.state / rollback.RECORD, remaining)
    else:
        (environment.state / rollback.RECORD).unlink(missing_ok=True)
        if not any(environment.state.iterdir()):
            environment.state.rmdir()
