"""anymamba run: an unmodified program with mamba_ssm and causal_conv1d served by anymamba."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys

from anymamba.errors import AnymambaError
from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--override",
        action="store_true",
        help=_("also where real packages are installed and work"),
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help=_("write what was served in the program's own process, as JSON, when it ends (-: stderr)"),
    )
    parser.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        metavar="module ...",
        help=_("run a module, as `python -m` does, with the arguments that follow"),
    )
    parser.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="script.py ...",
        help=_("a script and its arguments"),
    )


def run(arguments: argparse.Namespace) -> int:
    """The program's own exit code; 2 when none was named. Its exceptions show their own traceback, as under `python`."""
    import anymamba.dropin

    as_module = arguments.module is not None
    words = list(arguments.module if as_module else arguments.program)
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        print(_("name a script or -m module"), file=sys.stderr)
        return 2
    target = words[0]
    if not as_module and not os.path.exists(target):
        raise AnymambaError("usage", _("there is no file {target}").format(target=target))
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
