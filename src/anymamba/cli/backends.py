"""anymamba backends: the decision table of this machine, op by op: what was chosen, what is available, and why not."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from anymamba.cli.options import add_device, device_of
from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help=_("dtype of the activations"),
    )
    parser.add_argument("--check", action="store_true", help=_("run the self-checks again"))
    parser.add_argument("--json", action="store_true", help=_("print one JSON document"))
    parser.add_argument("-v", "--verbose", action="store_true", help=_("every reason in full"))


def run(arguments: argparse.Namespace) -> int:
    """0: every op has a backend of the kind this device deserves; 1: some JIT backend that is meant for it was rejected."""
    import torch

    from anymamba import ops  # noqa: F401 - they bring the specs that the table is made from
    from anymamba.backends import machine, selfcheck, table

    device = device_of(arguments.device)
    if arguments.check:
        selfcheck.forget()
    progress = _teller() if arguments.check else None
    decided = table.decide(device, getattr(torch, arguments.dtype), arguments.check, progress)
    if arguments.json:
        json.dump(
            {"machine": machine.facts(), "device": str(device), "dtype": arguments.dtype, "ops": decided},
            sys.stdout,
            indent=1,
        )
        print()
    else:
        _print(decided, str(device), arguments.dtype, arguments.verbose)
    return int(any(row["failed"] for cells in decided.values() for row in cells.values()))


def _teller() -> Callable[[str, bool, float], None]:
    """Compiling can take seconds a kernel and minutes in all: whoever waits sees what for. Each kernel once."""
    lines: set[str] = set()

    def tell(kernel: str, ok: bool, seconds: float) -> None:
        if kernel not in lines:
            lines.add(kernel)
            print(f"{seconds:6.1f} s  {kernel}: {_('works') if ok else _('failed')}", file=sys.stderr, flush=True)

    return tell


def _print(decided: dict[str, dict[str, dict[str, Any]]], device: str, dtype: str, verbose: bool) -> None:
    from rich.console import Console
    from rich.markup import escape

    from anymamba.backends.opspec import SPECS

    console = Console()
    names = list(next(iter(decided.values())))
    title = _("who computes what on {device}, {dtype}").format(device=device, dtype=dtype)
    if console.width >= _table_width(decided, names):
        console.print(_table(decided, names, title))
    else:
        console.print(f"[bold]{escape(title)}[/]")
        for op, cells in decided.items():
            console.print(_line(op, cells), highlight=False, soft_wrap=True)
    reasons: dict[tuple[str, str], list[str]] = {}
    for op, cells in decided.items():
        for name, cell in cells.items():
            if verbose or not cell["ok"] or cell["chosen"]:
                reasons.setdefault((name, cell["reason"]), []).append(op)
    for (name, reason), ops in reasons.items():
        which = _("all ops") if len(ops) == len(decided) else ", ".join(ops)
        console.print(f"[bold]{name}[/] ({escape(which)}): {escape(reason)}", highlight=False)
    for op, cells in decided.items():
        parts = SPECS[op].composed_of
        if parts and not any(cell["chosen"] for cell in cells.values()):
            composed = _("not fused here, composed of {ops}").format(ops=", ".join(parts))
            console.print(f"[bold]{op}[/]: {composed}", highlight=False)
        for name, cell in cells.items():
            _print_variants(console, f"{name} {op}", cell, verbose)


def _print_variants(console: Any, where: str, cell: dict[str, Any], verbose: bool) -> None:
    """The kernel that the typical call takes, with -v; those that `--check` found wrong, always."""
    from rich.markup import escape

    if verbose and cell["variant"] and cell["variant"] not in cell["variants"]:
        console.print(f"  {escape(where)}: {escape(cell['variant'])}", highlight=False)
    for variant, verdict in cell["variants"].items():
        if variant and (verbose or not verdict["ok"]):
            mark = _marks()["works" if verdict["ok"] else "failed"]
            console.print(f"  {mark} {escape(where)}, {escape(variant)}: {escape(verdict['reason'])}", highlight=False)


def _marks() -> dict[str, str]:
    return {
        "chosen": "[bold green]" + _("chosen") + "[/]",
        "works": _("works"),
        "failed": "[red]" + _("failed") + "[/]",
        "-": "[dim]-[/]",
    }


def _mark(cell: dict[str, Any]) -> str:
    return "chosen" if cell["chosen"] else "works" if cell["ok"] else "failed" if cell["failed"] else "-"


def _table_width(decided: dict[str, Any], names: list[str]) -> int:
    """Columns of a terminal in which no name is broken."""
    return max(map(len, decided)) + sum(max(len(name), len("chosen")) + 2 for name in names)


def _table(decided: dict[str, dict[str, dict[str, Any]]], names: list[str], title: str) -> Any:
    from rich import box
    from rich.table import Table

    grid = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in (_("op"), *names):
        grid.add_column(column, no_wrap=True)
    for op, cells in decided.items():
        grid.add_row(op, *(_marks()[_mark(cells[name])] for name in names))
    return grid


def _line(op: str, cells: dict[str, dict[str, Any]]) -> str:
    """An op in a terminal too narrow for the table."""
    kinds: dict[str, list[str]] = {}
    for name, cell in cells.items():
        kinds.setdefault(_mark(cell), []).append(name)
    parts = [f"{_marks()[kind]} {', '.join(kinds[kind])}" for kind in ("chosen", "works", "failed") if kind in kinds]
    return f"{op}: " + _("; ").join(parts)
