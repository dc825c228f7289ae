"""anymamba install: the official packages, by a plan that is shown first and can be undone."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _

PACKAGES = ("mamba-ssm", "causal-conv1d")
# failures whose log the doctor reads: a command, the dependencies, the check of what was installed
DIAGNOSED = ("step", "dependencies", "verification")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "packages",
        nargs="+",
        metavar="PACKAGE",
        help=_("mamba-ssm, causal-conv1d, also with a version: mamba-ssm==2.3.1"),
    )
    parser.add_argument("--version", dest="release", help=_("version of the first package"))
    parser.add_argument("--yes", "-y", action="store_true", help=_("do not ask"))
    parser.add_argument("--dry-run", action="store_true", help=_("show the plan and stop"))
    parser.add_argument("--wheel", metavar="FILE", action="append", default=[], help=_("use this wheel file"))
    parser.add_argument(
        "--find-links",
        metavar="DIR",
        help=_("look for wheel files and source archives in this folder first"),
    )
    parser.add_argument("--offline", action="store_true", help=_("fetch nothing: everything comes from the folder of --find-links"))
    parser.add_argument("--no-deps", action="store_true", help=_("do not add dependencies that are missing"))
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help=_("take this address instead of https://github.com"),
    )
    parser.add_argument("--from-source", action="store_true", help=_("compile even where a wheel exists"))
    parser.add_argument(
        "--arch",
        metavar="N.N",
        help=_("compute capability to compile for, such as 8.6, where no GPU is visible"),
    )
    parser.add_argument(
        "--emit-script",
        choices=("bash", "powershell", "Dockerfile"),
        help=_("write the plan as a script and stop"),
    )
    parser.add_argument(
        "--for",
        dest="machine",
        metavar="MACHINE.json",
        help=_("plan for the machine whose `anymamba doctor --json` this is, or for colab, kaggle, ngc-25.10, ..."),
    )
    parser.add_argument("--json", action="store_true", help=_("print one JSON document"))


def run(arguments: argparse.Namespace) -> int:
    """0 done or planned, 1 stopped or failed."""
    from anymamba.installer.plan import make_plan
    from anymamba.installer.script import emit
    from anymamba.installer.wheels import GITHUB

    facts = _facts(arguments.machine)
    packages = _packages(arguments.packages, arguments.release)
    if arguments.offline and not arguments.find_links:
        raise AnymambaError("usage", _("--offline needs --find-links: the folder that everything comes from"))
    local, passed_over = _local(arguments, packages, facts)
    for line in passed_over:
        print(line, file=sys.stderr)
    options: dict[str, Any] = {
        "architecture": _architecture(arguments.arch),
        "github": arguments.mirror or GITHUB,
        "archives": _archives(arguments.find_links, packages, local),
        "links": str(Path(arguments.find_links).resolve()) if arguments.find_links else None,
        "offline": arguments.offline,
        "dependencies": not arguments.no_deps,
    }
    without = frozenset(packages) if arguments.from_source else frozenset()
    plan = make_plan(facts, packages, local=local, without_wheels=without, **options)
    if plan.blocked is None and arguments.emit_script:
        print(emit(plan, arguments.emit_script), end="")
        return 0
    show_only = plan.blocked is not None or arguments.dry_run or bool(arguments.machine) or bool(arguments.emit_script)
    for line in describe(plan):
        print(line, file=sys.stderr if arguments.json or not show_only else sys.stdout)
    if show_only:
        if arguments.json:
            print(json.dumps({"plan": plan.document(), "done": False}, ensure_ascii=False, indent=1))
        return 1 if plan.blocked else 0
    if not arguments.yes and not ask():
        print(_("nothing was changed"), file=sys.stderr)
        if arguments.json:
            print(json.dumps({"plan": plan.document(), "done": False}, ensure_ascii=False, indent=1))
        return 1
    return _carry_out(plan, facts, packages, local, options, arguments.json)


def _carry_out(plan: Any, facts: Any, packages: Any, local: Any, options: dict[str, Any], as_json: bool) -> int:
    from anymamba.installer.download import NotPublished
    from anymamba.installer.environment import Environment
    from anymamba.installer.plan import make_plan
    from anymamba.installer.run import Runner
    from anymamba.installer.verify import lines

    runner = Runner(Environment(), lambda line: print(line, file=sys.stderr, flush=True))
    try:
        try:
            result = runner.run(plan)
        except NotPublished as error:
            print(_("{error}; the packages are compiled instead").format(error=error), file=sys.stderr)
            plan = make_plan(facts, packages, local=local, without_wheels=frozenset(packages), **options)
            for line in describe(plan):
                print(line, file=sys.stderr)
            if plan.blocked:
                return 1
            result = runner.run(plan)
    except AnymambaError as error:
        if error.code not in DIAGNOSED:
            raise
        print(error, file=sys.stderr)
        _diagnose(runner.log)
        print(_("the environment is as it was before"), file=sys.stderr)
        return 1
    for line in lines(result.checks):
        print(line, file=sys.stderr)
    print(
        _("added: {packages}").format(
            packages=", ".join(f"{name} {version}" for name, version in result.added.items()) or "-"
        ),
        file=sys.stderr,
    )
    print(
        _("log: {log}; `anymamba uninstall` undoes this").format(log=result.log),
        file=sys.stderr,
    )
    if as_json:
        document = {
            "plan": plan.document(),
            "done": True,
            "added": result.added,
            "replaced": result.replaced,
            "checks": result.checks,
            "log": str(result.log),
        }
        print(json.dumps(document, ensure_ascii=False, indent=1))
    return 0


def _diagnose(log: Path) -> None:
    """The doctor's reading of the log."""
    from anymamba.doctor import diagnose_log
    from anymamba.doctor.report import text

    with open(log, "rb") as stream:
        print(text.render(diagnose_log(stream, str(log))), file=sys.stderr)


def ask() -> bool:
    """False without a terminal: --yes is needed there."""
    if not sys.stdin.isatty():
        print(_("--yes is needed where nobody can be asked"), file=sys.stderr)
        return False
    print(_("Go on? [y/N] "), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes", "是")


def _facts(path: str | None) -> dict[str, Any]:
    if path is None:
        from anymamba.doctor import machine

        # an install is decided by these facts, so that torch has the time that it needs
        return machine.gather(seconds=120)
    from anymamba.doctor.compat.elsewhere import facts_of

    return facts_of(path)


def _packages(words: list[str], release: str | None) -> dict[str, str | None]:
    from anymamba.installer.environment import normal

    versions: dict[str, str | None] = {}
    for word in words:
        name, __, version = word.partition("==")
        if normal(name) not in PACKAGES:
            raise AnymambaError(
                "usage",
                _("{word} is not one of: {packages}").format(word=word, packages=", ".join(PACKAGES)),
            )
        versions[normal(name)] = version or None
    first = next(iter(versions))
    versions[first] = release or versions[first]
    return versions


def _local(
    arguments: argparse.Namespace, packages: dict[str, str | None], facts: dict[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Package to the path of a wheel file of the user's, and which files were passed over and why."""
    from anymamba.installer.machine import Machine
    from anymamba.installer.wheels import fits, parts

    machine = Machine(facts)
    paths: dict[str, str] = {}
    passed_over: list[str] = []
    folder = Path(arguments.find_links or ".")
    if not folder.is_dir():
        raise AnymambaError("usage", _("there is no folder {folder}").format(folder=folder))
    files = {path: parts(path.name) for path in folder.glob("*.whl")} if arguments.find_links else {}
    for path, name in sorted(files.items(), key=lambda item: _newer(item[1].version if item[1] else "")):
        if name is None or name.package not in packages:
            continue
        wanted = packages[name.package]
        ok, why = fits(machine, path.name)
        if ok and wanted not in (None, name.version):
            ok, why = False, _("version {expected} was asked for").format(expected=wanted)
        if ok:
            paths[name.package] = str(path.resolve())
        else:
            passed_over.append(_("{name} is not taken: {why}").format(name=path.name, why=why))
    for given in arguments.wheel:
        path = Path(given)
        ok, why = fits(machine, path.name)
        name = parts(path.name)
        if ok and not path.is_file():
            ok, why = False, _("there is no such file")
        if not ok or name is None:
            raise AnymambaError("usage", _("--wheel {file} cannot be used").format(file=given), why)
        packages.setdefault(name.package, None)
        paths[name.package] = str(path.resolve())
    return paths, passed_over


def _archives(folder: str | None, packages: dict[str, str | None], local: dict[str, str]) -> dict[str, str]:
    """Package to the path of its source archive in this folder: the release that was asked for, else the newest that the table knows.

    A package that has no wheel of the user's and no version of its own takes the version of its archive.
    """
    from anymamba.installer.releases import find
    from anymamba.installer.wheels import archive

    archives: dict[str, tuple[str, str]] = {}
    for path in sorted(Path(folder).iterdir(), key=lambda path: _newer(path.name)) if folder else []:
        name, version = archive(path.name) or ("", "")
        if name in packages and name not in local and packages[name] in (None, version) and find(name, version):
            archives[name] = (version, str(path.resolve()))
    for name, (version, _path) in archives.items():
        packages[name] = version
    return {name: path for name, (_version, path) in archives.items()}


def _newer(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _architecture(text: str | None) -> int | None:
    if text is None:
        return None
    number = text.replace("sm_", "").replace(".", "")
    if not number.isdigit() or not 50 <= int(number) <= 130:
        raise AnymambaError(
            "usage",
            _("--arch {text} is no compute capability such as 8.6").format(text=text),
        )
    return int(number)


def _word(word: str) -> str:
    """As a shell takes it: setuptools>=61.0.0 would else write a file."""
    return f'"{word}"' if re.search(r"[\s<>|&;*]", word) else word


def describe(plan: Any) -> list[str]:
    """The plan for a person."""
    lines = [*plan.first, ""] if plan.first else []
    lines += ["  " + line for line in plan.found]
    if plan.blocked:
        lines += ["", _("Stopped before anything was done: {reason}").format(reason=plan.blocked.reason)]
        lines += ["  " + reason for reason in plan.reasons]
        lines.append(_("What to do: {fix}").format(fix=plan.blocked.fix))
        return lines + ["    " + command for command in plan.blocked.commands]
    lines += ["", _("Plan:")]
    lines += [f"  {choice.package} {choice.version}: {choice.route} ({choice.reason})" for choice in plan.packages]
    for number, step in enumerate(plan.steps, 1):
        lines.append(f"  {number}. {step.title}")
        lines += [f"       {name}={value}" for name, value in step.environment.items()]
        lines += ["       $ " + " ".join(map(_word, command)) for command in step.commands]
        if step.kind == "download":
            lines.append("       " + step.address)
    lines.append(_("Why:"))
    lines += ["  - " + reason for reason in plan.reasons]
    lines.append(
        _(
            "Expected: {least:.0f} to {most:.0f} minutes (an estimate), up to {memory_gb:.0f} GB of memory, "
            "{disk_gb:.0f} GB on disk"
        ).format(least=plan.minutes[0], most=plan.minutes[1], memory_gb=plan.memory_gb, disk_gb=plan.disk_gb)
    )
    lines = [line.replace("{python}", "python").replace("{work}", "WORK") for line in lines]
    return lines + [_("Changes:")] + ["  - " + change for change in plan.changes]
