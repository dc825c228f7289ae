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
        help=_(
            "layouts, dtypes and sizes beside the installed official packages on an NVIDIA GPU, beside PyTorch, "
            "transformers and mambapy on a processor; the worst first"
        ),
    )
    parser.add_argument(
        "--max-minutes", type=float, metavar="MINUTES", help=_("--matrix on a GPU: begin no further case after this many minutes")
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
    cases = registry.select(device, arguments.only, arguments.quick)
    if not cases:
        raise AnymambaError(
            "usage",
            _("--only: no case matches {only!r}").format(only=arguments.only),
            fix=_("`anymamba bench --list` names all of them"),
        )
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    setting = Setting(device, arguments.backend, arguments.slow, arguments.quick)
    effort = timing.effort_for(device, arguments.quick)
    results: list[Any] = []
    minute, left_out = Minute(), []
    for case in cases:
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
    from anymamba.bench import matrix, matrix_cpu

    if device.type not in ("cuda", "cpu"):
        raise AnymambaError(
            "usage",
            _("--matrix: {device} has no other packages to compare with").format(device=device),
            fix=_("run it on an NVIDIA GPU or on the processor: --device cuda, --device cpu"),
        )
    pattern = arguments.only or ""
    every: list[Any] = list(matrix_cpu.cells() if device.type == "cpu" else matrix.cells())
    cells = [cell for cell in every if pattern in cell.name or fnmatch(cell.name, pattern)]
    if arguments.list:
        print("\n".join(cell.name for cell in cells))
        return 0

    def progress(name: str) -> None:
        print(name, file=sys.stderr, flush=True)

    if device.type == "cpu":
        rows = matrix_cpu.measure(cells, arguments.backend, progress)
    else:
        with dispatch.use_backend(arguments.backend):
            rows = matrix.measure(cells, device, progress, arguments.max_minutes)
    if arguments.json:
        document = matrix_cpu.document(rows) if device.type == "cpu" else matrix.document(rows, device)
        json.dump(document, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print("\n".join(_line(row) for row in rows))
    return int(any("ours" not in row for row in rows))


def _line(row: dict[str, Any]) -> str:
    """A cell of the matrix: how many times as fast as the fastest of the others, and everybody's time."""
    contenders = {who: value for who, value in row.items() if isinstance(value, float) and not who.startswith("ratio")}
    times = "  ".join(f"{who} {value:.4g} {row['unit']}" for who, value in contenders.items())
    ratio = f"{row['ratio']:5.2f}x" if "ratio" in row else "     -"
    direction = f", {row['direction']}" if "direction" in row else ""
    return f"{ratio}  {row['cell']}{direction}  {times}  {row.get('failed', row.get('left_out', ''))}"
