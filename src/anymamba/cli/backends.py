"""anymamba backends: the decision table of this machine, op by op: what was chosen, what is available, and why not."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from anymamba.cli.options import add_device, device_of
from anymamba.language import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help=say("dtype of the activations", "激活值的数据类型"),
    )
    parser.add_argument("--check", action="store_true", help=say("run the self-checks again", "重新运行自检"))
    parser.add_argument("--json", action="store_true", help=say("print one JSON document", "输出一个 JSON 文档"))
    parser.add_argument("-v", "--verbose", action="store_true", help=say("every reason in full", "显示全部原因"))


def run(arguments: argparse.Namespace) -> int:
    """0: every op has a backend of the kind this device deserves; 1: some JIT backend that is meant for it was rejected."""
    import torch

    from anymamba.backends import machine, selfcheck, table

    device = device_of(arguments.device)
    if arguments.check:
        selfcheck.forget()
    decided = table.decide(device, getattr(torch, arguments.dtype))
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


def _print(decided: dict[str, dict[str, dict[str, Any]]], device: str, dtype: str, verbose: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    names = list(next(iter(decided.values())))
    grid = Table(title=say(f"who computes what on {device}, {dtype}", f"{device}、{dtype} 上各算子由谁计算"))
    for column in (say("op", "算子"), *names):
        grid.add_column(column, overflow="fold")
    reasons: dict[tuple[str, str], list[str]] = {}
    for op, cells in decided.items():
        marks = []
        for name in names:
            cell = cells[name]
            if cell["chosen"]:
                marks.append("[bold green]" + say("chosen", "已选") + "[/]")
            elif cell["ok"]:
                marks.append(say("available", "可用"))
            else:
                marks.append("[red]" + say("failed", "失败") + "[/]" if cell["failed"] else "[dim]-[/]")
            if verbose or not cell["ok"] or cell["chosen"]:
                reasons.setdefault((name, cell["reason"]), []).append(op)
        grid.add_row(op, *marks)
    console.print(grid)
    for (name, reason), ops in reasons.items():
        which = say("all ops", "全部算子") if len(ops) == len(decided) else ", ".join(ops)
        console.print(f"[bold]{name}[/] ({escape(which)}): {escape(reason)}", highlight=False)
