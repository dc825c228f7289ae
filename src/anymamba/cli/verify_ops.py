"""anymamba verify, without a model: the table of errors of every backend of every op."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext

if TYPE_CHECKING:
    import torch

    from anymamba.numerics.op_errors import Row


def run(arguments: argparse.Namespace, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> int:
    """Measures, prints, and has the dispatcher stop using what failed. 1: something did."""
    from anymamba.backends import machine
    from anymamba.numerics import op_errors

    started = time.perf_counter()
    rows: list[Row] = []
    for row in op_errors.measure(device, dtypes, arguments.only):
        if not arguments.json and sys.stderr.isatty():
            print(f"\r{row.op}: {row.case}".ljust(70), end="", file=sys.stderr, flush=True)
        elif not rows or rows[-1].op != row.op:  # a log gets a line an op
            print(f"{time.perf_counter() - started:6.1f} s  {row.op}", file=sys.stderr, flush=True)
        rows.append(row)
    if not rows:
        raise AnymambaError("usage", _("no op is named like {only!r}").format(only=arguments.only))
    failed = [row for row in rows if not row.ok]
    for row in failed:
        op_errors.reject(row, device)
    seconds = time.perf_counter() - started
    if arguments.json:
        document = {
            "machine": machine.facts(),
            "device": str(device),
            "seconds": round(seconds, 3),
            "ok": not failed,
            "rows": [row.as_dict() for row in rows],
        }
        json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        _print(rows, failed, str(device), arguments.verbose, seconds)
    return int(bool(failed))


def _print(rows: list[Row], failed: list[Row], device: str, verbose: bool, seconds: float) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if sys.stderr.isatty():
        print("\r" + " " * 72 + "\r", end="", file=sys.stderr)
    selection = rows if verbose else _worst(rows)
    grid = Table(title=_("errors against the float64 reference on {device}").format(device=device))
    for heading in (
        _("op"),
        _("backend"),
        "dtype",
        _("worst case"),
        _("error"),
        _("allowed"),
        "",
    ):
        grid.add_column(heading)
    for row in selection:
        mark = "[green]" + _("pass") + "[/]" if row.ok else "[bold red]" + _("FAIL") + "[/]"
        grid.add_row(
            row.op, row.backend, row.dtype, f"{row.case}: {row.where}", f"{row.error:.1e}", f"{row.allowed:.1e}", mark
        )
    console = Console()
    console.print(grid)
    for row in failed:
        console.print(
            "[bold red]" + escape(f"{row.backend} {row.op} {row.dtype}, {row.case}") + "[/]: " + escape(row.reason),
            highlight=False,
        )
    console.print(_conclusion(rows, failed, seconds), highlight=False)


def _conclusion(rows: list[Row], failed: list[Row], seconds: float) -> str:
    cases = len(rows)
    if not failed:
        return ngettext(
            "the {cases} measurement is within the criterion ({seconds:.0f} s)",
            "all {cases} measurements are within the criterion ({seconds:.0f} s)",
            cases,
        ).format(cases=cases, seconds=seconds)
    text = ngettext("{count} of {cases} measurement failed", "{count} of {cases} measurements failed", cases).format(
        count=len(failed), cases=cases
    )
    names = sorted({f"{row.backend} {row.op}" for row in failed if row.refusable})
    if names:
        text += _("; from now on not used on this device: {names} (`anymamba backends --check` clears that)").format(
            names=", ".join(names)
        )
    shaky = sorted({f"{row.backend} {row.op}" for row in failed if not row.refusable})
    if shaky:
        text += _("; {names}: the last resort, nothing can take its place: please report this").format(
            names=", ".join(shaky)
        )
    return text


def _worst(rows: list[Row]) -> list[Row]:
    """For each op, backend and dtype the case that used up most of what is allowed."""
    worst: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = row.op, row.backend, row.dtype
        if key not in worst or row.share > worst[key].share:
            worst[key] = row
    return list(worst.values())
