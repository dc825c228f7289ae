"""anymamba run: an unmodified program with mamba_ssm and causal_conv1d served by anymamba."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys

from anymamba.errors import AnymambaError
from anymamba.language import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--override",
        action="store_true",
        help=say("also where real packages are installed and work", "即使已安装可用的官方包也使用替身"),
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help=say(
            "write what was served in the program's own process, as JSON, when it ends (-: stderr)",
            "程序结束时写出其自身进程的调用统计（JSON；- 表示标准错误）",
        ),
    )
    parser.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        metavar="module ...",
        help=say("run a module, as `python -m` does, with the arguments that follow", "像 `python -m` 一样运行模块，其后为参数"),
    )
    parser.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="script.py ...",
        help=say("a script and its arguments", "脚本及其参数"),
    )


def run(arguments: argparse.Namespace) -> int:
    """The program's own exit code; 2 when none was named. Its exceptions show their own traceback, as under `python`."""
    import anymamba.dropin

    as_module = arguments.module is not None
    words = list(arguments.module if as_module else arguments.program)
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        print(say("name a script or -m module", "请给出脚本或 -m 模块"), file=sys.stderr)
        return 2
    target = words[0]
    if not as_module and not os.path.exists(target):
        raise AnymambaError("usage", say(f"there is no file {target}", f"没有文件 {target}"))
    from anymamba.dropin import finder, inherit

    anymamba.dropin.install(override=arguments.override)
    inherit.to_children(finder.NAMES if arguments.override else ())
    sys.argv = words
    try:
        return _exit_code(target, as_module)
    finally:
        if arguments.report:
            _report(arguments.report)


def _exit_code(target: str, as_module: bool) -> int:
    try:
        if as_module:
            sys.path.insert(0, os.getcwd())
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(target)))
            runpy.run_path(target, run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - the program's exception is its own, not a bug of this command
        own = error.__traceback__
        while own is not None and own.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
            own = own.tb_next
        sys.excepthook(type(error), error.with_traceback(own), own)
        return 1
    return 0


def _report(file: str) -> None:
    import anymamba.dropin

    text = json.dumps(anymamba.dropin.status(), indent=1, ensure_ascii=False)
    if file == "-":
        print(text, file=sys.stderr)
    else:
        with open(file, "w", encoding="utf-8") as out:
            out.write(text + "\n")
