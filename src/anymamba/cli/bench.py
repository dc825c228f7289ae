"""anymamba bench: each op and whole models on this machine, beside transformers, mambapy and the matrix products alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from anymamba.cli.options import add_device, device_of
from anymamba.errors import AnymambaError
from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help=_("cases whose name contains it, or matches it as a shell pattern"),
    )
    parser.add_argument("--quick", action="store_true", help=_("a few cases, under a minute"))
    parser.add_argument("--slow", action="store_true", help=_("also the peers that take minutes"))
    parser.add_argument(
        "--matrix",
        action="store_true",
        help=_("layouts, dtypes and sizes beside the installed official packages, on an NVIDIA GPU; the worst first"),
    )
    parser.add_argument("--backend", help=_("every op on this backend"))
    parser.add_argument("--list", action="store_true", help=_("only the names of the cases"))
    parser.add_argument("--json", action="store_true", help=_("print one JSON document"))


def run(arguments: argparse.Namespace) -> int:
    """0: every result was right; 1: a case was wrong or crashed, and has no time; 2: no such case."""
    from anymamba.backends import dispatch
    from anymamba.bench import runner, timing
    from anymamba.bench.cases import registry
    from anymamba.bench.cases.case import Setting
    from anymamba.bench.minute import Minute

    device = device_of(arguments.device)
    with dispatch.use_backend(arguments.backend):  # an unknown name is an error before anything runs
        pass
    if arguments.matrix:
        return _matrix(arguments, device)
    chosen = registry.select(device, arguments.only, arguments.quick)
    if not chosen:
        raise AnymambaError(
            "usage",
            _("--only: no case matches {only!r}").format(only=arguments.only),
            fix=_("`anymamba bench --list` names all of them"),
        )
    if arguments.list:
        print("\n".join(case.name for case in chosen))
        return 0
    setting = Setting(device, arguments.backend, arguments.slow, arguments.quick)
    effort = timing.effort_for(device, arguments.quick)
    results: list[Any] = []
    minute, left_out = Minute(), []
    for case in chosen:
        if arguments.quick and not minute.has_room(case):
            left_out.append(case.name)
            continue
        print(f"{case.name} ...", end="", file=sys.stderr, flush=True)
        started = time.perf_counter()
        results += runner.run([case], setting, effort)
        print(f" {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    if left_out:
        names = ", ".join(left_out)
        print(_("no room in the minute of --quick for: {names}").format(names=names), file=sys.stderr)
    document = runner.document(results, setting, arguments.quick)
    if arguments.json:
        json.dump(document, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        from rich.console import Console

        from anymamba.bench import report

        # a file or a pipe has no width; a narrow terminal folds
        report.print_table(document, Console() if sys.stdout.isatty() else Console(width=110))
    return int(any(not result["gate"]["ok"] for result in results))


def _matrix(arguments: argparse.Namespace, device: Any) -> int:
    """1 if a cell of ours failed."""
    from fnmatch import fnmatch

    from anymamba.backends import dispatch
    from anymamba.bench import matrix

    if device.type != "cuda":
        raise AnymambaError(
            "usage",
            _("--matrix: {device} has no official package to compare with").format(device=device),
            fix=_("run it on an NVIDIA GPU: --device cuda"),
        )
    pattern = arguments.only or ""
    chosen = [cell for cell in matrix.cells() if pattern in cell.name or fnmatch(cell.name, pattern)]
    if arguments.list:
        print("\n".join(cell.name for cell in chosen))
        return 0
    with dispatch.use_backend(arguments.backend):
        rows = matrix.measure(chosen, device, lambda name: print(name, file=sys.stderr, flush=True))
    if arguments.json:
        json.dump(matrix.document(rows, device), sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        for row in rows:
            times = "  ".join(f"{who} {row[who]:.4g} {row['unit']}" for who in ("ours", "official") if who in row)
            ratio = f"{row['ratio']:5.2f}x" if "ratio" in row else "     -"
            print(f"{ratio}  {row['cell']}, {row['direction']}  {times}  {row.get('failed', '')}")
    return int(any("ours" not in row for row in rows))
