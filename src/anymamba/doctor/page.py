"""The prose of a rule: the Markdown beside it, en.md and zh.md, which is also the page that is published.

    # AM001 some-cause
    What is wrong, in one sentence.
    ## Error messages           ### `a line of a log`, as it stands there
    ## Why it happens
    ## Do you need to fix it?   or {optional}: a text of rules/en.md
    ## What to do, in this order
    1. What this does. (Linux, WSL; conda)      and under it, indented, ```bash or ```powershell with what to type
    2. {no-isolation}
    ## Seen in                  - <https://...>

{blanks} are filled in from the user's environment (blanks.py). What stands in parentheses at the end of a remedy is where it applies.
Commands are those of bash and pip: shells.py makes the user's shell and package manager of them, unless ```powershell gives its own.
"""

from __future__ import annotations

import functools
import pkgutil
import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

RULES = __name__.rpartition(".")[0] + ".rules"

SECTIONS = {
    "Error messages": "lines", "错误信息": "lines", "Why it happens": "why", "原因": "why",
    "Do you need to fix it?": "needed", "需要修复吗？": "needed", "What to do, in this order": "remedies",
    "按顺序尝试": "remedies", "Seen in": "links", "出处": "links",
}  # fmt: skip
_SYSTEMS = {"Linux": "linux", "WSL": "wsl", "Windows": "windows", "macOS": "macos"}
_MANAGERS = {"pip": "pip", "uv": "uv", "poetry": "poetry", "conda": "conda"}
_PLACES = {"terminal": "", "终端": "", "notebook": "notebook", "Dockerfile": "dockerfile"}
_SHARED = re.compile(r"\{([a-z]+(?:-[a-z]+)*)\}$")


class Remedy(NamedTuple):
    """text: what this does and when it applies; commands: for bash and pip; powershell: where these cannot be translated.

    systems: where it applies ("linux", "windows", "macos", "wsl"), empty for everywhere; managers, places: the same for "pip", "uv",
    "poetry", "conda" and for "dockerfile", "notebook" and "" (a terminal). A remedy with a blank that nothing tells is left out.
    """

    text: str
    commands: Tuple[str, ...] = ()
    powershell: Optional[Tuple[str, ...]] = None
    systems: Tuple[str, ...] = ()
    managers: Tuple[str, ...] = ()
    places: Tuple[str, ...] = ()


class Page(NamedTuple):
    """heading: code and cause; title: one sentence without its full stop; lines: of logs, literally."""

    heading: str
    title: str
    why: str
    needed: str
    remedies: Tuple[Remedy, ...]
    lines: Tuple[str, ...]
    links: Tuple[str, ...]


def source(package: str, language: str) -> str:
    """The Markdown that lies in a package; raises FileNotFoundError where it is missing."""
    data = pkgutil.get_data(package, language + ".md")
    if data is None:
        raise FileNotFoundError("{}/{}.md".format(package, language))
    return data.decode("utf-8").replace("\r\n", "\n")


@functools.lru_cache(maxsize=None)
def read(package: str, language: str) -> Page:
    """The page of the rule in this package."""
    heading, _, rest = source(package, language).partition("\n")
    parts: Dict[str, List[str]] = {"title": []}
    name = "title"
    for line in rest.split("\n"):
        if line.startswith("## "):
            name = SECTIONS[line[3:].strip()]
            parts[name] = []
        else:
            parts[name].append(line)
    needed = paragraph(parts["needed"])
    answer = shared_name(needed)
    return Page(
        heading[2:].strip(),
        paragraph(parts["title"]).rstrip(".。"),
        paragraph(parts["why"]),
        paragraph(shared(language)[answer]) if answer else needed,
        tuple(remedy(item, language) for item in items(parts["remedies"])),
        tuple(_literal(line[4:]) for line in parts.get("lines", []) if line.startswith("### ")),
        tuple(re.findall(r"^- <(\S+)>", "\n".join(parts.get("links", [])), re.M)),
    )


@functools.lru_cache(maxsize=None)
def shared(language: str) -> Mapping[str, List[str]]:
    """Name to the lines of each text that several rules use (rules/en.md and rules/zh.md)."""
    return {name: lines for group in _groups(language).values() for name, lines in group.items()}


def themes(language: str) -> Dict[str, str]:
    """Folder of rules to its title, in the order in which a user meets them."""
    return {name: paragraph(lines) for name, lines in _groups(language)["themes"].items()}


def shared_remedy(name: str, language: str) -> Remedy:
    return remedy(["{" + name + "}"], language)


@functools.lru_cache(maxsize=None)
def _groups(language: str) -> Mapping[str, Mapping[str, List[str]]]:
    groups: Dict[str, Dict[str, List[str]]] = {}
    lines: List[str] = []
    for line in source(RULES, language).split("\n"):
        if line.startswith("# "):
            group = groups.setdefault(line[2:].strip(), {})
        elif line.startswith("## "):
            lines = group.setdefault(line[3:].strip(), [])
        else:
            lines.append(line)
    return groups


def shared_name(line: str) -> Optional[str]:
    """``{no-isolation}`` alone in a line names a text that several pages use."""
    found = _SHARED.match(line.strip())
    return found.group(1) if found else None


def items(lines: List[str]) -> List[List[str]]:
    """The items of a numbered list, without number and indentation."""
    listed: List[List[str]] = []
    for line in lines:
        start = re.match(r"\d+\. (.*)", line)
        if start:
            listed.append([start.group(1)])
        elif listed:
            listed[-1].append(line[3:] if line.startswith("   ") else line)
    return listed


def paragraph(lines: List[str]) -> str:
    """Broken lines joined; between two Chinese characters no blank comes in."""
    text = " ".join(line.strip() for line in lines if line.strip())
    return re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])", "", text)


def conditions(text: str) -> Tuple[str, Dict[str, Tuple[str, ...]]]:
    """The text without the parentheses at its end that say where it applies, and what they say."""
    found = re.search(r" ?[(（]([^()（）]*)[)）]$", text)
    words = [word.strip() for word in re.split(r"[,;，；]", found.group(1))] if found else []
    kinds = (("systems", _SYSTEMS), ("managers", _MANAGERS), ("places", _PLACES))
    if found is None or not all(any(word in table for _, table in kinds) for word in words):
        return text, {}
    return text[: found.start()], {kind: tuple(table[word] for word in words if word in table) for kind, table in kinds}


def remedy(lines: List[str], language: str) -> Remedy:
    """An item of the list of remedies, or the shared one that it names."""
    name = shared_name(lines[0])
    if name:
        lines = shared(language)[name]
    prose: List[str] = []
    blocks: Dict[str, Tuple[str, ...]] = {}
    fence: Optional[str] = None
    for line in lines:
        if line.startswith("```"):
            fence = line[3:].strip() if fence is None else None
            if fence is not None:
                blocks[fence] = ()
        elif fence is not None:
            blocks[fence] += (line,)
        else:
            prose.append(line)
    text, where = conditions(paragraph(prose))
    return Remedy(text, blocks.get("bash") or blocks.get("dockerfile", ()), blocks.get("powershell"), **where)


def _literal(code: str) -> str:
    """The text in a span of code."""
    text = code.strip()
    width = len(text) - len(text.lstrip("`"))
    text = text[width:-width]
    return text[1:-1] if re.match(r" `|.*` $", text) else text


def code(text: str) -> str:
    """As code in a line of Markdown, whatever quotes it has."""
    fence = "`" * (1 + max([0] + [len(run) for run in re.findall("`+", text)]))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return fence + space + text + space + fence
