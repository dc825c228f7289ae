"""A rule's page as ``--explain`` prints it and as docs/*/errors/ keep it: the Markdown beside the rule with its blanks filled in, and with
what it shares with other pages. Also the index of all pages.

python -m anymamba.doctor.explain docs      # writes docs/en/errors/*.md and docs/zh/errors/*.md again
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Dict, List

from anymamba.doctor import blanks, page, rules
from anymamba.doctor.present import TYPICAL, fill
from anymamba.doctor.rule import Rule
from anymamba.doctor.shells import commands
from anymamba.language import LANGUAGES, _, current_language, set_language

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
    lines: List[str] = []
    for part in re.split(r"^(?=## |\d+\. )", page.source(rule.package, current_language()), flags=re.M):
        section = page.SECTIONS.get(part.partition("\n")[0][3:])
        if section == "links":
            lines += _consequences(rule)
        if part[0].isdigit():
            lines += _remedy(part)
        else:
            text = part.rstrip() if section == "lines" else _filled(part.rstrip())  # a line of a log may have braces of its own
            lines += [*_with_shared(text.split("\n")), ""]
        if section == "remedies":
            lines += [_versions(), ""]
    if not rule.page().links:
        lines += _consequences(rule)
    return "\n".join(lines)


def _filled(text: str) -> str:
    return fill(text, dict(blanks.values(TYPICAL), **_EXAMPLES))


def _versions() -> str:
    return _(
        "Versions are examples, for torch {torch} with CUDA {cuda} and Python {python}; the doctor computes those "
        "of your log or machine."
    ).format(torch=TYPICAL.torch, cuda=TYPICAL.cuda, python=TYPICAL.python)


def _consequences(rule: Rule) -> List[str]:
    if not rule.explains:
        return []
    text = _("Found together with these, they are consequences: ") + ", ".join(rule.explains) + _(".")
    return ["## " + _("What it explains"), "", text, ""]


def _with_shared(lines: List[str]) -> List[str]:
    """The lines, and in the place of {a-name} those of the shared text of that name."""
    shared = page.shared(current_language())
    whole: List[str] = []
    for line in lines:
        name = page.shared_name(line)
        whole += [text for text in shared[name] if text] if name else [line]
    return whole


def _remedy(item: str) -> List[str]:
    """A remedy of the list; where it goes for Windows too and is written for bash alone, PowerShell's form follows."""
    number = item[: item.index(".") + 2]
    lines = page.items(item.split("\n"))[0]
    remedy = page.remedy(lines, current_language())
    name = page.shared_name(lines[0])
    lines = [*page.shared(current_language())[name]] if name else lines
    text = "\n".join(lines).strip().split("\n")
    if remedy.powershell is None and remedy.commands and not remedy.places and (not remedy.systems or "windows" in remedy.systems):
        bash = tuple(map(_filled, remedy.commands))
        shell = commands(remedy, TYPICAL._replace(system="windows", shell="powershell"), bash, None)
        own = "```powershell\n" + "\n".join(shell) + "\n```"
        if remedy.systems == ("windows",):
            text = "\n".join(text).split("```")[0].split("\n") + own.split("\n")
        elif shell != bash:
            text += ["", *own.split("\n")]
    return [_filled(line) for line in (number + text[0], *("   " + line if line else "" for line in text[1:]), "")]


def pages(language: str) -> Dict[str, str]:
    """File name to text of every page in docs/<language>/errors, the index included."""
    set_language(language)
    try:
        made = {rule.code + ".md": explain(rule) for rule in rules.all_rules()}
        made["README.md"] = _index()
    finally:
        set_language(None)
    return made


def _index() -> str:
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
    for theme, title in page.themes(current_language()).items():
        lines += ["## " + title, ""]
        for rule in rules.all_rules():
            if rule.package.split(".")[-2] == theme:
                prose = rule.page()
                lines.append("- [{0}]({0}.md) `{1}`: {2}{3}".format(rule.code, rule.cause, _filled(prose.title), _(".")))
                lines += ["    - " + page.code(line) for line in prose.lines]
        lines.append("")
    return "\n".join(lines)


def write(docs: Path) -> None:
    for language in LANGUAGES:
        folder = docs / language / "errors"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages(language).items():
            (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
