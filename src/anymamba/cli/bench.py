"""anymamba bench: each op and whole models on this machine, beside transformers, mambapy and the matrix products alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from anymamba.cli.options import add_device, device_of
from anymamba.errors import AnymambaError
from anymamba.language import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help=say("cases whose name contains it, or matches it as a shell pattern", "仅运行名称包含或匹配该模式的用例"),
    )
    parser.add_argument("--quick", action="store_true", help=say("a few cases, under a minute", "少量用例，一分钟内完成"))
    parser.add_argument(
        "--slow", action="store_true", help=say("also the peers that take minutes", "同时运行需数分钟的对比实现")
    )
    parser.add_argument(
        "--matrix",
        action="store_true",
        help=say(
            "layouts, dtypes and sizes beside the installed official packages, on an NVIDIA GPU; the worst first",
            "在 NVIDIA GPU 上与已安装的官方包逐项对比各种布局、类型与尺寸，最差者在前",
        ),
    )
    parser.add_argument("--backend", help=say("every op on this backend", "所有算子使用该后端"))
    parser.add_argument("--list", action="store_true", help=say("only the names of the cases", "仅列出用例名称"))
    parser.add_argument("--json", action="store_true", help=say("print one JSON document", "输出一个 JSON 文档"))


def run(arguments: argparse.Namespace) -> int:
    """0: every result was right; 1: a case was wrong or crashed, and has no time; 2: no such case."""
    from anymamba.backends import dispatch
    from anymamba.bench import cases, runner, timing
    from anymamba.bench.case import Setting
    from anymamba.bench.minute import Minute

    device = device_of(arguments.device)
    with dispatch.use_backend(arguments.backend):  # an unknown name is an error before anything runs
        pass
    if arguments.matrix:
        return _matrix(arguments, device)
    chosen = cases.select(device, arguments.only, arguments.quick)
    if not chosen:
        raise AnymambaError(
            "usage",
            say(f"--only: no case matches {arguments.only!r}", f"--only：没有用例匹配 {arguments.only!r}"),
            fix=say("`anymamba bench --list` names all of them", "`anymamba bench --list` 列出全部用例"),
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
        print(say(f"no room in the minute of --quick for: {names}", f"--quick 的一分钟内来不及运行：{names}"), file=sys.stderr)
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
            say(f"--matrix: {device} has no official package to compare with", f"--matrix：{device} 上没有可供对比的官方包"),
            fix=say("run it on an NVIDIA GPU: --device cuda", "请在 NVIDIA GPU 上运行：--device cuda"),
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
