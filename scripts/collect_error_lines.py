"""Collects the literal lines by which each cause shows itself in the logs of the tests, into the pages beside the rules.

    python scripts/collect_error_lines.py && python -m anymamba.doctor.explain docs

They are the headings of the pages in docs/*/errors, which people and search engines find by them. Lines that were collected before
and still stand in a log stay, so that they can be chosen by hand.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from anymamba.doctor import page, rules  # noqa: E402
from anymamba.doctor.log import Log  # noqa: E402
from anymamba.doctor.reading import read  # noqa: E402
from anymamba.doctor.rule import NOTE, POSSIBLE  # noqa: E402

# words without which a line says nothing to somebody who searches for it
TELLING = re.compile(
    r"error|exception|not found|no module|cannot|can't|undefined|fail|mismatch|unsupported|not (?:available|installed|supported|defined)"
    r"|requires?\b|killed|died|no kernel|invalid|too old|unexpected|missing|no matching|could not|incompatible|depends on|falling back"
    r"|conflict|has no|illegal|is only|only supports|no such|exit code|no space|greater than|certificate|unreachable|not callable"
    r"|different python|externally-managed|slow distutils|blocked|out of|must be initialized|no nvidia|partially|no matches|is not an? "
    r"|ambiguous|致命|错误|找不到|无法|失败|没有",
    re.I,
)
LOGS = ROOT / "tests" / "doctor" / "logs"
TITLES = {"en": "Error messages", "zh": "错误信息"}
MOST_LINES = 6
LONGEST = 150
SHORTEST = 12


def shape(line: str) -> str:
    """Lines that differ in numbers, paths and versions only are one."""
    return re.sub(r"[^\s'\"]*[/\\][^\s'\"]*|\d[\w.+]*|\W+", " ", line).lower().strip()


def cut(line: str) -> str:
    """Without what no heading needs: frames, quotes and the end of a very long line."""
    line = re.sub(r"\s+", " ", line).strip(" │|>`")
    # a file of the user's in parentheses says nothing to others
    line = re.split(r" \((?=/|[A-Z]:\\)", line)[0]
    if len(line) <= LONGEST:
        return line
    return line[: line.rfind(" ", 0, LONGEST)].rstrip(" ,;(")


def lines_of(path: Path) -> list[tuple[str, str]]:
    """(cause, line) for the causes that are expected of this log."""
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))["causes"]
    log = Log(read(io.BytesIO(path.read_bytes())), path.name)
    found = []
    for cause in expected:
        rule = rules.by_name()[cause]
        match = rule.match_log(log)
        if match is None or match.confidence == POSSIBLE or (match.role or rule.role) == NOTE and cause != expected[0]:
            continue
        for offset in match.offsets:
            end = log.text.find("\n", offset)
            found.append((cause, cut(log.text[offset : end if end >= 0 else None])))
    return found


def collected() -> dict[str, list[str]]:
    """Cause to its lines."""
    logs = "\n".join(re.sub(r"\s+", " ", path.read_bytes().decode("utf-8", "replace")) for path in LOGS.glob("*.txt"))
    made = {rule.cause: [line for line in page.read(rule.package, "en").lines if line in logs] for rule in rules.all_rules()}
    for path in sorted(LOGS.glob("*.txt")):
        for cause, line in lines_of(path):
            lines = made[cause]
            new = shape(line) not in {shape(other) for other in lines}
            told = len(line) >= SHORTEST and TELLING.search(line) and not re.match(r"[/\\]|[A-Z]:\\|\S+[/\\]\S+[/\\]", line)
            if new and told and line in logs:
                lines.append(line)
    for cause, lines in made.items():
        # the end of another line, or a line that goes on in another, says no more than that one
        whole = [line for line in lines if not any(line != other and line in other for other in lines)]
        made[cause] = whole[:MOST_LINES]
    return made


def with_lines(text: str, lines: list[str], title: str) -> str:
    """The page with these lines as its headings, after its first sentence."""
    text = re.sub(rf"^## {title}\n(?:.*\n)*?(?=## )", "", text, flags=re.MULTILINE)
    section = f"## {title}\n\n" + "".join(f"### {page.code(line)}\n\n" for line in lines) if lines else ""
    return re.sub(r"^(?=## )", lambda _: section, text, count=1, flags=re.MULTILINE)


def main() -> None:
    made = collected()
    for rule in rules.all_rules():
        folder = Path(str(sys.modules[rule.package].__file__)).parent
        for language, title in TITLES.items():
            file = folder / f"{language}.md"
            file.write_text(with_lines(file.read_text("utf-8"), made[rule.cause], title), "utf-8")
    print(sum(map(len, made.values())), "lines of", sum(map(bool, made.values())), "causes", file=sys.stderr)


if __name__ == "__main__":
    main()
