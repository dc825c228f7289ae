"""anymamba uninstall: remove what install added, and nothing else."""

from __future__ import annotations

import argparse
import json
import sys

from anymamba.language import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "packages",
        nargs="*",
        help=say(
            "mamba-ssm, causal-conv1d; all that install added when none is named",
            "mamba-ssm、causal-conv1d；省略则为 install 添加的全部",
        ),
    )
    parser.add_argument("--yes", "-y", action="store_true", help=say("do not ask", "不询问"))
    parser.add_argument(
        "--dry-run", action="store_true", help=say("only say what would be removed", "只显示将移除的内容")
    )
    parser.add_argument("--json", action="store_true", help=say("print one JSON document", "输出一个 JSON 文档"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.cli.install import ask
    from anymamba.installer import rollback, uninstall
    from anymamba.installer.environment import Environment, normal
    from anymamba.installer.guard import busy
    from anymamba.installer.lock import Lock

    environment = Environment()
    lock = Lock(environment.state)  # held until this process ends
    if not lock.take():
        raise busy()
    rollback.recover(environment)
    names, said = uninstall.removable(environment, [normal(name) for name in arguments.packages])
    print(say("to be removed: {}", "将移除：{}").format(", ".join(names)), file=sys.stderr)
    for line in said:
        print(line, file=sys.stderr)
    remove = not arguments.dry_run and (arguments.yes or ask())
    if remove:
        uninstall.remove(environment, names)
        print(say("removed", "已移除"), file=sys.stderr)
    if arguments.json:
        print(json.dumps({"packages": names, "removed": remove, "remarks": said}, ensure_ascii=False))
    return 0
