"""Puts an environment back: a journal of what an install is about to touch is written before it touches anything.

The journal is there exactly as long as an install is going on. Whoever finds one restores first: the install itself when it
fails, the guard when the install was killed, the next call when the power was cut.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from anymamba.installer.environment import Environment

JOURNAL, RECORD = "journal.json", "installed.json"


def begin(environment: Environment, wheels: list[Path], replaced: list[str]) -> Path:
    """Writes the journal and copies the files of the distributions that will be replaced. Returns the journal's path."""
    state = environment.state
    backup = state / "backup"
    shutil.rmtree(backup, ignore_errors=True)
    copies: list[tuple[str, str]] = []
    for name in replaced:
        for number, path in enumerate(path for path in environment.files_of(name) if path.exists()):
            copy = backup / name / str(number)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
            copies.append((str(path), str(copy)))
    old = {original for original, _ in copies}
    planned = {str(path) for wheel in wheels for path in environment.files_in(wheel)}
    document = {
        "files": sorted(path for path in planned if path in old or not os.path.lexists(path)),
        "folders": sorted({os.path.dirname(path) for path in planned if os.path.dirname(path).endswith(".dist-info")}),
        "roots": sorted(
            {str(environment.packages), str(environment.binary), str(environment.scripts), str(environment.data)}
        ),
        "stashed": [str(path) for path in environment.packages.glob("~*")],
        "backup": copies,
    }
    write(state / JOURNAL, document)
    return state / JOURNAL


def restore(journal: Path) -> None:
    """The environment as it was when the journal was written; can be cut and called again. Removes the journal at the end."""
    document: dict[str, Any] = json.loads(journal.read_text("utf-8"))
    roots = {Path(root) for root in document["roots"]}
    touched: set[Path] = set()
    for name in document["files"]:
        path = Path(name)
        path.unlink(missing_ok=True)
        touched.add(path.parent)
        if path.suffix == ".py":
            for compiled in (path.parent / "__pycache__").glob(path.stem + ".*.pyc"):
                compiled.unlink(missing_ok=True)
            touched.add(path.parent / "__pycache__")
    for name in document["folders"]:
        if not any(original.startswith(name + os.sep) for original, _ in document["backup"]):
            shutil.rmtree(name, ignore_errors=True)
    for packages in roots:
        # pip moves what it is about to remove into folders whose names begin with a tilde
        for left in packages.glob("~*"):
            if str(left) not in document["stashed"]:
                shutil.rmtree(left, ignore_errors=True)
    for folder in sorted(touched, key=lambda path: -len(path.parts)):
        _remove_empty(folder, roots)
    for original, copy in document["backup"]:
        os.makedirs(os.path.dirname(original), exist_ok=True)
        shutil.copy2(copy, original)
    journal.unlink(missing_ok=True)
    shutil.rmtree(journal.parent / "backup", ignore_errors=True)
    _remove_empty(journal.parent, {journal.parent.parent})


def sweep(state: Path) -> None:
    """Removes what is left of a journal that was not finished: nothing had been touched then."""
    for left in state.glob("*.new"):
        left.unlink(missing_ok=True)
    if not (state / JOURNAL).exists():
        shutil.rmtree(state / "backup", ignore_errors=True)
        _remove_empty(state, {state.parent})


def _remove_empty(folder: Path, roots: set[Path]) -> None:
    while folder not in roots and folder.parent != folder:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass  # its parent may be empty nevertheless
        except OSError:
            return
        folder = folder.parent


def finish(environment: Environment, before: dict[str, str], after: dict[str, str]) -> None:
    """Ends the journal and adds to the record what was added and replaced."""
    record = read_record(environment)
    for name, version in after.items():
        if name not in before:
            record["added"][name] = version
        elif before[name] != version:
            if name in record["added"]:
                record["added"][name] = version
            else:
                record["replaced"][name] = [before[name], version]
    write(environment.state / RECORD, record)
    (environment.state / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(environment.state / "backup", ignore_errors=True)


def recover(environment: Environment) -> bool:
    """Restores after an install that never ended; True when there was one. The caller holds the environment's lock."""
    journal = environment.state / JOURNAL
    if not journal.exists():
        return False
    restore(journal)
    return True


def read_record(environment: Environment) -> dict[str, Any]:
    try:
        return dict(json.loads((environment.state / RECORD).read_text("utf-8")))
    except FileNotFoundError:
        return {"added": {}, "replaced": {}}


def write(path: Path, document: Any) -> None:
    """Under a temporary name first, so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
