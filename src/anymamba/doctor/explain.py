"""The long form of a cause, as ``--explain`` prints it and as docs/*/errors/ keep it: one text, written in the rule."""

from __future__ import annotations

from typing import List

from anymamba.doctor.diagnose import DEFAULT_VALUES, fill
from anymamba.doctor.rule import Remedy, Rule
from anymamba.doctor.shells import commands
from anymamba.language import say


def explain(rule: Rule) -> str:
    """Markdown in the current language."""
    lines: List[str] = ["# {} {}".format(rule.code, rule.cause), "", _text(rule.title.here()) + say(".", "。"), ""]
    lines += ["## " + say("Why it happens", "原因"), "", _text(rule.why.here()), ""]
    shown = [signature.source for signature in rule.signatures]
    if shown:
        lines += ["## " + say("What it looks like", "日志特征"), "", say("Any of these, as regular expressions:", "以下任意一条（正则表达式）："), "", "```text"]
        lines += shown + ["```", ""]
    lines += ["## " + say("Do you need to fix it?", "需要修复吗？"), "", _text(rule.needed.here()), ""]
    lines += ["## " + say("What to do, in this order", "按顺序尝试"), ""]
    for number, remedy in enumerate(rule.remedies, 1):
        lines += _remedy(number, remedy)
    if rule.explains:
        lines += ["## " + say("What it explains", "由它引起"), "", say("Found together with these, they are consequences: ", "与以下原因同时出现时，它们是其后果：") + ", ".join(rule.explains) + say(".", "。"), ""]
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


def page_name(rule: Rule) -> str:
    return rule.code + ".md"


__all__ = ["explain", "page_name"]
