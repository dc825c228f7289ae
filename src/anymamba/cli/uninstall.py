"""anymamba uninstall: remove what install added, and nothing else."""

from __future__ import annotations

import argparse
import json
import sys

from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "packages",
        nargs="*",
        help=_("mamba-ssm, causal-conv1d; all that install added when none is named"),
    )
    parser.add_argument("--yes", "-y", action="store_true", help=_("do not ask"))
    parser.add_argument("--dry-run", action="store_true", help=_("only say what would be removed"))
    parser.add_argument("--json", action="store_true", help=_("print one JSON document"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.cli.install import ask
    from anymamba.installer.environment import Environment, normal
    from anymamba.installer.undo import rollback, uninstall
    from anymamba.installer.undo.guard import busy
    from anymamba.installer.undo.lock import Lock

    environment = Environment()
    lock = Lock(environment.state)  # held until this process ends
    if not lock.take():
        raise busy()
    rollback.recover(environment)
    names, notes = uninstall.removable(environment, [normal(name) for name in arguments.packages])
    print(_("to be removed: {names}").format(names=", ".join(names)), file=sys.stderr)
    for line in notes:
        print(line, file=sys.stderr)
    remove = not arguments.dry_run and (arguments.yes or ask())
    if remove:
        uninstall.remove(environment, names)
        print(_("removed"), file=sys.stderr)
    if arguments.json:
        print(json.dumps({"packages": names, "removed": remove, "remarks": notes}, ensure_ascii=False))
    return 0
