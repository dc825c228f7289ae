"""anymamba install: the official packages, by a plan that is shown first and can be undone."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import say

PACKAGES = ("mamba-ssm", "causal-conv1d")
# failures whose log the doctor reads: a command, the dependencies, the check of what was installed
DIAGNOSED = ("step", "dependencies", "verification")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "packages",
        nargs="+",
        metavar="PACKAGE",
        help=say(
            "mamba-ssm, causal-conv1d, also with a version: mamba-ssm==2.3.1",
            "mamba-ssm、causal-conv1d，可带版本：mamba-ssm==2.3.1",
        ),
    )
    parser.add_argument("--version", dest="release", help=say("version of the first package", "第一个包的版本"))
    parser.add_argument("--yes", "-y", action="store_true", help=say("do not ask", "不询问"))
    parser.add_argument("--dry-run", action="store_true", help=say("show the plan and stop", "只显示计划"))
    parser.add_argument(
        "--wheel", metavar="FILE", action="append", default=[], help=say("use this wheel file", "使用该 wheel 文件")
    )
    parser.add_argument(
        "--find-links",
        metavar="DIR",
        help=say("look for wheel files in this folder first", "优先在该文件夹中查找 wheel"),
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help=say("take this address instead of https://github.com", "用该地址代替 https://github.com"),
    )
    parser.add_argument(
        "--from-source", action="store_true", help=say("compile even where a wheel exists", "即使有 wheel 也从源码编译")
    )
    parser.add_argument(
        "--arch",
        metavar="N.N",
        help=say(
            "compute capability to compile for, such as 8.6, where no GPU is visible",
            "没有可见显卡时，要编译的计算能力，如 8.6",
        ),
    )
    parser.add_argument(
        "--emit-script",
        choices=("bash", "powershell", "Dockerfile"),
        help=say("write the plan as a script and stop", "将计划输出为脚本"),
    )
    parser.add_argument(
        "--for",
        dest="machine",
        metavar="MACHINE.json",
        help=say(
            "plan for the machine whose `anymamba doctor --json` this is, or for colab, kaggle, ngc-25.10, ...",
            "为该 `anymamba doctor --json` 文件描述的机器，或 colab、kaggle、ngc-25.10 等制定计划",
        ),
    )
    parser.add_argument("--json", action="store_true", help=say("print one JSON document", "输出一个 JSON 文档"))


def run(arguments: argparse.Namespace) -> int:
    """0 done or planned, 1 stopped or failed."""
    from anymamba.installer.plan import make_plan
    from anymamba.installer.script import emit
    from anymamba.installer.wheels import GITHUB

    facts = _facts(arguments.machine)
    packages = _packages(arguments.packages, arguments.release)
    local, passed_over = _local(arguments, packages, facts)
    for line in passed_over:
        print(line, file=sys.stderr)
    options: dict[str, Any] = {"architecture": _architecture(arguments.arch), "github": arguments.mirror or GITHUB}
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
        print(say("nothing was changed", "未做任何更改"), file=sys.stderr)
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
            print(say("{}; the packages are compiled instead", "{}；改为编译").format(error), file=sys.stderr)
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
        print(say("the environment is as it was before", "环境与安装前一致"), file=sys.stderr)
        return 1
    for line in lines(result.checks):
        print(line, file=sys.stderr)
    print(
        say("added: {}", "已添加：{}").format(
            ", ".join(f"{name} {version}" for name, version in result.added.items()) or "-"
        ),
        file=sys.stderr,
    )
    print(
        say("log: {}; `anymamba uninstall` undoes this", "日志：{}；可用 `anymamba uninstall` 撤销").format(result.log),
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
        print(say("--yes is needed where nobody can be asked", "无法询问时需要 --yes"), file=sys.stderr)
        return False
    print(say("Go on? [y/N] ", "继续？[y/N] "), end="", file=sys.stderr, flush=True)
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

    found: dict[str, str | None] = {}
    for word in words:
        name, _, version = word.partition("==")
        if normal(name) not in PACKAGES:
            raise AnymambaError(
                "usage",
                say("{} is not one of: {}", "{} 不在其中：{}").format(word, ", ".join(PACKAGES)),
            )
        found[normal(name)] = version or None
    first = next(iter(found))
    found[first] = release or found[first]
    return found


def _local(
    arguments: argparse.Namespace, packages: dict[str, str | None], facts: dict[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Package to the path of a wheel file of the user's, and which files were passed over and why."""
    from anymamba.installer.machine import Machine
    from anymamba.installer.wheels import fits, parts

    machine = Machine(facts)
    found: dict[str, str] = {}
    passed_over: list[str] = []
    folder = Path(arguments.find_links or ".")
    if not folder.is_dir():
        raise AnymambaError("usage", say("there is no folder {}", "没有文件夹 {}").format(folder))
    files = {path: parts(path.name) for path in folder.glob("*.whl")} if arguments.find_links else {}
    for path, name in sorted(files.items(), key=lambda item: _newer(item[1].version if item[1] else "")):
        if name is None or name.package not in packages:
            continue
        wanted = packages[name.package]
        ok, why = fits(machine, path.name)
        if ok and wanted not in (None, name.version):
            ok, why = False, say("version {} was asked for", "要求的版本为 {}").format(wanted)
        if ok:
            found[name.package] = str(path.resolve())
        else:
            passed_over.append(say("{} is not taken: {}", "不使用 {}：{}").format(path.name, why))
    for given in arguments.wheel:
        path = Path(given)
        ok, why = fits(machine, path.name)
        name = parts(path.name)
        if ok and not path.is_file():
            ok, why = False, say("there is no such file", "没有该文件")
        if not ok or name is None:
            raise AnymambaError("usage", say("--wheel {} cannot be used", "无法使用 --wheel {}").format(given), why)
        packages.setdefault(name.package, None)
        found[name.package] = str(path.resolve())
    return found, passed_over


def _newer(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _architecture(text: str | None) -> int | None:
    if text is None:
        return None
    number = text.replace("sm_", "").replace(".", "")
    if not number.isdigit() or not 50 <= int(number) <= 130:
        raise AnymambaError(
            "usage",
            say("--arch {} is no compute capability such as 8.6", "--arch {} 不是 8.6 这样的计算能力").format(text),
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
        lines += ["", say("Stopped before anything was done: {}", "在做任何事之前停止：{}").format(plan.blocked.reason)]
        lines += ["  " + reason for reason in plan.reasons]
        lines.append(say("What to do: {}", "办法：{}").format(plan.blocked.fix))
        return lines + ["    " + command for command in plan.blocked.commands]
    lines += ["", say("Plan:", "计划：")]
    lines += [f"  {choice.package} {choice.version}: {choice.route} ({choice.reason})" for choice in plan.packages]
    for number, step in enumerate(plan.steps, 1):
        lines.append(f"  {number}. {step.title}")
        lines += [f"       {name}={value}" for name, value in step.environment.items()]
        lines += ["       $ " + " ".join(map(_word, command)) for command in step.commands]
        if step.kind == "download":
            lines.append("       " + step.address)
    lines.append(say("Why:", "原因："))
    lines += ["  - " + reason for reason in plan.reasons]
    lines.append(
        say(
            "Expected: {:.0f} to {:.0f} minutes (an estimate), up to {:.0f} GB of memory, {:.0f} GB on disk",
            "预计：{:.0f} 到 {:.0f} 分钟（估计值），最多 {:.0f} GB 内存，{:.0f} GB 磁盘",
        ).format(*plan.minutes, plan.memory_gb, plan.disk_gb)
    )
    lines = [line.replace("{python}", "python").replace("{work}", "WORK") for line in lines]
    return lines + [say("Changes:", "变化：")] + ["  - " + change for change in plan.changes]
