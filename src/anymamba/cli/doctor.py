"""anymamba doctor: the machine, or a log, and what to do about it. Standard library only."""

from __future__ import annotations

import argparse
import sys

from anymamba.doctor import diagnose_log
from anymamba.doctor.finding import Report
from anymamba.doctor.reading import NotALog
from anymamba.errors import AnymambaError
from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log",
        nargs="?",
        help=_(
            "a log file to diagnose, or - for standard input; without it, what comes through a pipe, else this machine"
        ),
    )
    parser.add_argument(
        "--compat",
        nargs="?",
        const="",
        metavar="FILE",
        help=_(
            "which torch, mamba-ssm and causal-conv1d go together on this machine; with a requirements.txt, "
            "pyproject.toml, environment.yml or a program's folder, which mamba-ssm that program was written for"
        ),
    )
    parser.add_argument(
        "--for",
        dest="machine",
        metavar="MACHINE.json",
        help=_(
            "with --compat: for the machine whose `anymamba doctor --json` this is, or for colab, kaggle, ngc-25.10, "
            "..."
        ),
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=_("print one JSON document"))
    form.add_argument(
        "--markdown",
        action="store_true",
        help=_("print a report for an issue, without names, tokens and hosts"),
    )
    form.add_argument(
        "--explain",
        metavar="CODE",
        help=_("the long form of a finding, such as AM003 or nvcc-missing"),
    )
    form.add_argument("--list", action="store_true", help=_("list every cause that the doctor knows"))
    parser.add_argument("-v", "--verbose", action="store_true", help=_("show the details of each area"))
    parser.add_argument(
        "--online",
        action="store_true",
        help=_("also ask github.com whether the wheel for this machine can be reached"),
    )
    parser.add_argument(
        "--no-import",
        action="store_true",
        help=_("do not import torch or the packages: quicker, and less is known"),
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        help=_("how long the check of this machine may take in all (default: 2); what is slower is not looked at"),
    )
    parser.epilog = _(
        "examples: pip install mamba-ssm 2>&1 | anymamba doctor    anymamba doctor build.log --json    anymamba "
        "doctor --explain AM003.  Exit code: 0 healthy, 1 something found, 2 wrong usage."
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(_("{text} is not a number of seconds").format(text=text))
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """0 healthy, 1 something was found, 2 wrong usage."""
    if arguments.explain:
        return _explain(arguments.explain)
    if arguments.list:
        return _list()
    if arguments.compat is not None:
        return _compat(arguments)
    if arguments.machine:
        raise AnymambaError("usage", _("--for goes with --compat"))
    try:
        report = _report(arguments)
    except NotALog as error:
        print(str(error), file=sys.stderr)
        return 2
    except OSError as error:
        if arguments.log in (None, "-"):
            raise
        message = _(
            "anymamba doctor: cannot read {file}: {reason}; give the path of a log file, or - to read from a pipe"
        )
        print(message.format(file=arguments.log, reason=error.strerror or error), file=sys.stderr)
        return 2
    if arguments.json:
        from anymamba.doctor.report import document

        print(document.render(report))
    elif arguments.markdown:
        from anymamba.doctor.report import markdown

        print(markdown.render(report))
    else:
        from anymamba.doctor.report import text

        text.write(report, arguments.verbose)
    return 0 if report.healthy else 1


def _compat(arguments: argparse.Namespace) -> int:
    """0: something goes there; 1: nothing does, or the file tells nothing of mamba-ssm."""
    from anymamba.doctor.compat import elsewhere, report
    from anymamba.doctor.compat.requirements import of_path

    if arguments.compat and arguments.log:
        raise AnymambaError("usage", _("--compat takes one file"))
    if arguments.markdown:
        raise AnymambaError("usage", _("--compat has text and --json"))
    name = arguments.compat or arguments.log
    program = None
    if name:
        try:
            program = of_path(name)
        except OSError as error:
            raise AnymambaError(
                "usage", _("{name} cannot be read: {value}").format(name=name, value=error.strerror or error)
            ) from error
    if arguments.machine:
        facts = elsewhere.facts_of(arguments.machine)
    else:
        from anymamba.doctor import machine

        # versions, ABI and compute capability are known without importing torch
        facts = machine.gather(imports=False)
    answer = report.Answer(facts, program, name or "")
    print(report.render_json(answer) if arguments.json else report.render(answer), end="\n" if arguments.json else "")
    return 0 if answer.fits else 1


def _report(arguments: argparse.Namespace) -> Report:
    from anymamba.doctor import diagnose_machine

    if arguments.log is None:
        head = _first_byte_of_pipe()
        if head:
            return _from_pipe(head)
        return diagnose_machine(arguments.online, not arguments.no_import, arguments.wait)
    if arguments.log == "-":
        return _from_pipe(b"")
    with open(arguments.log, "rb") as stream:
        return diagnose_log(stream, arguments.log)


def _first_byte_of_pipe() -> bytes:
    """b"" where nothing is piped in; then the machine is checked, and that is said when a pipe was open."""
    from anymamba.doctor import piped

    if not hasattr(sys.stdin, "buffer") or not piped.is_piped(_descriptor()):
        return b""
    head = piped.first_byte(_descriptor())
    if head is None:
        print(
            _(
                "anymamba doctor: nothing came through the pipe, so this machine is checked; `anymamba doctor -` "
                "waits for a log"
            ),
            file=sys.stderr,
        )
    return head or b""


def _descriptor() -> int:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError):  # replaced by an object without a file
        return -1


def _from_pipe(head: bytes) -> Report:
    from anymamba.doctor import piped

    stream = piped.Limited(sys.stdin.buffer, head)
    report = diagnose_log(stream, "-")
    if stream.stopped:
        print(
            _("anymamba doctor: standard input did not end; what was read up to the limit is diagnosed"),
            file=sys.stderr,
        )
    return report


def _explain(name: str) -> int:
    from anymamba.doctor import rules
    from anymamba.doctor.explain import explain

    table = rules.by_name()
    rule = table.get(name.upper()) or table.get(name.lower())
    if rule is None:
        print(
            _("{name} is no finding; `anymamba doctor --list` names all of them").format(name=name),
            file=sys.stderr,
        )
        return 2
    print(explain(rule))
    return 0


def _list() -> int:
    from anymamba.doctor import blanks, rules
    from anymamba.doctor.present import TYPICAL, fill

    for rule in rules.all_rules():
        print("{}  {:34} {}".format(rule.code, rule.cause, fill(rule.page().title, blanks.values(TYPICAL))))
    return 0
