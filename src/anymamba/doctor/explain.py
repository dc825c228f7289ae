"""The long form of a cause, as ``--explain`` prints it and as docs/*/errors/ keep it: one text, written in the rule.

python -m anymamba.doctor.explain docs      # writes docs/en/errors/*.md and docs/zh/errors/*.md again
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict, List

from anymamba.doctor import rules
from anymamba.doctor.present import DEFAULT_VALUES, fill
from anymamba.doctor.rule import Remedy, Rule
from anymamba.doctor.shells import commands
from anymamba.language import LANGUAGES, say, set_language


def explain(rule: Rule) -> str:
    """Markdown in the current language."""
    lines: List[str] = ["# {} {}".format(rule.code, rule.cause), "", _text(rule.title.here()) + say(".", "。"), ""]
    lines += ["## " + say("Why it happens", "原因"), "", _text(rule.why.here()), ""]
    shown = [signature.source for signature in rule.signatures]
    if shown:
        lines += [
            "## " + say("What it looks like", "日志特征"),
            "",
            say("Any of these, as regular expressions:", "以下任意一条（正则表达式）："),
            "",
            "```text",
        ]
        lines += shown + ["```", ""]
    lines += ["## " + say("Do you need to fix it?", "需要修复吗？"), "", _text(rule.needed.here()), ""]
    lines += ["## " + say("What to do, in this order", "按顺序尝试"), ""]
    for number, remedy in enumerate(rule.remedies, 1):
        lines += _remedy(number, remedy)
    if rule.explains:
        lines += [
            "## " + say("What it explains", "由它引起"),
            "",
            say("Found together with these, they are consequences: ", "与以下原因同时出现时，它们是其后果：")
            + ", ".join(rule.explains)
            + say(".", "。"),
            "",
        ]
    if rule.links:
        lines += ["## " + say("Seen in", "出处"), ""] + ["- <{}>".format(link) for link in rule.links] + [""]
    return "\n".join(lines)


def _remedy(number: int, remedy: Remedy) -> List[str]:
    where = ""
    if remedy.systems:
        names = {"linux": "Linux", "wsl": "WSL", "windows": "Windows", "macos": "macOS"}
        where = say(" ({})", "（{}）").format(", ".join(names[name] for name in remedy.systems))
    lines = ["{}. {}{}".format(number, _text(remedy.text.here()), where), ""]
    bash = remedy.commands
    shell = commands(remedy, "windows")
    if bash and (not remedy.systems or set(remedy.systems) != {"windows"}):
        lines += ["   ```bash"] + ["   " + _text(command) for command in bash] + ["   ```", ""]
    if shell and shell != bash and (not remedy.systems or "windows" in remedy.systems):
        lines += ["   ```powershell"] + ["   " + _text(command) for command in shell] + ["   ```", ""]
    return lines


def _text(text: str) -> str:
    return fill(text, DEFAULT_VALUES)


def pages(language: str) -> Dict[str, str]:
    """File name to text of every page in docs/<language>/errors, the index included."""
    set_language(language)
    try:
        made = {rule.code + ".md": explain(rule) for rule in rules.all_rules()}
        lines = ["# " + say("Causes that the doctor knows", "诊断工具已知的原因"), "", "| | | |", "|---|---|---|"]
        for rule in rules.all_rules():
            lines.append("| [{0}]({0}.md) | `{1}` | {2} |".format(rule.code, rule.cause, _text(rule.title.here())))
        made["README.md"] = "\n".join(lines) + "\n"
    finally:
        set_language(None)
    return made


def write(docs: Path) -> None:
    for language in LANGUAGES:
        folder = docs / language / "errors"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages(language).items():
            (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
