"""The long form of a cause, as ``--explain`` prints it and as docs/*/errors/ keep it: one text, written in the rule.

python -m anymamba.doctor.explain docs      # writes docs/en/errors/*.md and docs/zh/errors/*.md again
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict, List

from anymamba.doctor import blanks, rules
from anymamba.doctor.present import TYPICAL, fill
from anymamba.doctor.rule import Remedy, Rule
from anymamba.doctor.shells import commands
from anymamba.language import LANGUAGES, say, set_language

# blanks that only a match or a lack fills
_EXAMPLES = {
    "nvcc_torch": "2.8.0",
    "nvcc_cuda": "cu128",
    "driver_torch": "2.5.1",
    "driver_cuda": "cu121",
    "when_no_wheel_is_known": "",
}


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
    lines += [
        say(
            "Versions are examples, for torch {torch} with CUDA {cuda} and Python {python}; the doctor computes those of your log or"
            " machine.",
            "版本号为示例（torch {torch}、CUDA {cuda}、Python {python}）；诊断工具会按你的日志或本机计算。",
        ).format(torch=TYPICAL.torch, cuda=TYPICAL.cuda, python=TYPICAL.python),
        "",
    ]
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
    bash = tuple(_text(command) for command in remedy.commands)
    here = TYPICAL._replace(place=remedy.places[0] if remedy.places else "")
    bash = commands(remedy, here, bash, None)
    own = None if remedy.powershell is None else tuple(_text(command) for command in remedy.powershell)
    shell = commands(remedy, TYPICAL._replace(system="windows", shell="powershell"), bash, own)
    if bash and (not remedy.systems or set(remedy.systems) != {"windows"}):
        lines += ["   ```" + (here.place or "bash")] + ["   " + command for command in bash] + ["   ```", ""]
    if shell and shell != bash and (not remedy.systems or "windows" in remedy.systems) and not remedy.places:
        lines += ["   ```powershell"] + ["   " + command for command in shell] + ["   ```", ""]
    return lines


def _text(text: str) -> str:
    return fill(text, dict(blanks.values(TYPICAL), **_EXAMPLES))


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
