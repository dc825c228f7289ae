"""The long form of a cause, as ``--explain`` prints it and as docs/*/errors/ keep it: one text, written in the rule.

python -m anymamba.doctor.explain docs      # writes docs/en/errors/*.md and docs/zh/errors/*.md again
"""

from __future__ import annotations

import functools
import json
import pkgutil
import re
import sys
from pathlib import Path
from typing import Dict, List

from anymamba.doctor import blanks, rules
from anymamba.doctor.present import TYPICAL, fill
from anymamba.doctor.rule import Remedy, Rule, Text
from anymamba.doctor.shells import commands
from anymamba.language import LANGUAGES, _, set_language

# folders of rules, in the order in which a user meets them
THEMES = {
    "isolation": Text("Before the build: isolation, build tools, the wrong torch", "构建之前：隔离、构建工具、错误的 torch"),
    "wheels": Text("Wheels, versions and downloads", "wheel、版本与下载"),
    "toolkit": Text("nvcc and the CUDA toolkit", "nvcc 与 CUDA 工具包"),
    "compiling": Text("While it compiles", "编译过程中"),
    "windows": Text("Windows", "Windows"),
    "platforms": Text("WSL, macOS, old Linux", "WSL、macOS 与较旧的 Linux"),
    "imports": Text("At the import", "导入时"),
    "triton": Text("Triton", "Triton"),
    "devices": Text("On the GPU", "在显卡上运行时"),
    "transformers": Text("transformers", "transformers"),
    "unexplained": Text("None of these", "以上都不是"),
}

# blanks that only a match or a lack fills
_EXAMPLES = {
    "nvcc_torch": "2.8.0",
    "nvcc_cuda": "cu128",
    "driver_torch": "2.5.1",
    "driver_cuda": "cu121",
    "when_no_wheel_is_known": "",
    "only_pascal": "",
    "only_turing": "",
    "only_blackwell": "",
    "from_volta_on": "",
    "kernels": "VMamba/kernels/selective_scan",
}


def explain(rule: Rule) -> str:
    """Markdown in the current language."""
    lines: List[str] = ["# {} {}".format(rule.code, rule.cause), "", _text(rule.title.here()) + _("."), ""]
    literal = error_lines().get(rule.cause, [])
    if literal:
        lines += ["## " + _("Error messages"), ""]
        for line in literal:
            lines += ["### " + _code(line), ""]
    lines += ["## " + _("Why it happens"), "", _text(rule.why.here()), ""]
    shown = [signature.source for signature in rule.signatures]
    if shown:
        lines += [
            "## " + _("What it looks like"),
            "",
            _("Any of these, as regular expressions:"),
            "",
            "```text",
        ]
        lines += shown + ["```", ""]
    lines += ["## " + _("Do you need to fix it?"), "", _text(rule.needed.here()), ""]
    lines += ["## " + _("What to do, in this order"), ""]
    lines += [
        _(
            "Versions are examples, for torch {torch} with CUDA {cuda} and Python {python}; the doctor computes those "
            "of your log or machine."
        ).format(torch=TYPICAL.torch, cuda=TYPICAL.cuda, python=TYPICAL.python),
        "",
    ]
    for number, remedy in enumerate(rule.remedies, 1):
        lines += _remedy(number, remedy)
    if rule.explains:
        lines += [
            "## " + _("What it explains"),
            "",
            _("Found together with these, they are consequences: ") + ", ".join(rule.explains) + _("."),
            "",
        ]
    if rule.links:
        lines += ["## " + _("Seen in"), ""] + ["- <{}>".format(link) for link in rule.links] + [""]
    return "\n".join(lines)


@functools.lru_cache(maxsize=None)
def error_lines() -> Dict[str, List[str]]:
    """Cause to the lines of logs by which people know it, literally; scripts/collect_error_lines.py collects them."""
    text = pkgutil.get_data(__name__, "error_lines.json")
    return dict(json.loads(text.decode("utf-8"))) if text else {}


def _code(text: str) -> str:
    """As code in a line of Markdown, whatever quotes it has."""
    fence = "`" * (1 + max([0] + [len(run) for run in re.findall("`+", text)]))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return fence + space + text + space + fence


def _remedy(number: int, remedy: Remedy) -> List[str]:
    where = ""
    if remedy.systems:
        names = {"linux": "Linux", "wsl": "WSL", "windows": "Windows", "macos": "macOS"}
        where = _(" ({systems})").format(systems=", ".join(names[name] for name in remedy.systems))
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
        lines = _index()
        made["README.md"] = "\n".join(lines) + "\n"
    finally:
        set_language(None)
    return made


def _index() -> List[str]:
    """The page of all causes, by what the user was doing, with the lines by which each is known."""
    lines = [
        "# " + _("Error messages of mamba-ssm and causal-conv1d"),
        "",
        _(
            "Look for words of your message on this page, or give the whole log to `anymamba doctor LOG` (`uvx "
            "anymamba-doctor LOG` without an installation), which finds the cause, and the commands for your system."
        ),
        "",
    ]
    themes = _themes()
    for theme in dict.fromkeys([*(name for name in THEMES if name in themes), *sorted(themes)]):
        title = THEMES.get(theme)
        lines += ["## " + (title.here() if title else theme), ""]
        for rule in themes[theme]:
            lines.append(
                "- [{0}]({0}.md) `{1}`: {2}{3}".format(rule.code, rule.cause, _text(rule.title.here()), _("."))
            )
            lines += ["    - " + _code(line) for line in error_lines().get(rule.cause, [])]
        lines.append("")
    return lines[:-1]


def _themes() -> Dict[str, List[Rule]]:
    """Folder of rules to its rules, by code."""
    names = {rule.cause.replace("-", "_"): rule for rule in rules.all_rules()}
    found: Dict[str, List[Rule]] = {}
    for module in pkgutil.walk_packages(rules.__path__):
        if module.ispkg:
            inner = pkgutil.iter_modules([path + "/" + module.name for path in rules.__path__])
            found[module.name] = sorted((names[item.name] for item in inner if item.name in names), key=lambda rule: rule.code)
    return {theme: listed for theme, listed in found.items() if listed}


def write(docs: Path) -> None:
    for language in LANGUAGES:
        folder = docs / language / "errors"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages(language).items():
            (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
