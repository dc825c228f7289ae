"""The code blocks of the documentation, and a folder in which they can run."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LANGUAGES = ("bash", "powershell", "python", "toml", "ini", "json", "dockerfile", "text")
"""What a block may be; ``text`` is output or a drawing, everything else is run, parsed or checked."""

SHORTER = (
    (r"max_minutes=[\d.]+", "steps=2, batch_tokens=512, length=128"),
    (r"--max-minutes [\d.]+", "--steps 2 --batch-tokens 512 --length 128"), (r"--size (small|130m)", "--size tiny"),
    (r"--train-tokenizer \d+", "--train-tokenizer 300"), (r"\bMODEL\b", "runs/book-tiny"), (r"--tokens \d+", "--tokens 64"),
    (r"~/runs", "runs"), (r"~/", ""),
)  # fmt: skip
"""Values that a test shortens and placeholders that it fills in; the words of a command stay."""


@dataclass(frozen=True)
class Block:
    """line: of the opening fence, counted from 1."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(DOCS)}:{self.line}"


def pages(language: str) -> list[Path]:
    """The pages that people write; one page a cause of the doctor is made of its rules and checked there."""
    return sorted(path for path in (DOCS / language).rglob("*.md") if path.parent.name != "errors")


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page; blocks in lists are indented with their list."""
    result: list[Block] = []
    fence = re.compile(r"^( *)```(\S*)\s*$")
    start: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        match = fence.match(line)
        if match and start is None:
            start, lines = (number, match[1], match[2]), []
        elif match and start is not None:
            result.append(Block(page, start[0], start[2], "\n".join(lines) + "\n"))
            start = None
        elif start is not None:
            lines.append(line.removeprefix(start[1]))
    assert start is None, f"{page}: the block of line {start} does not end" if start else ""
    return result


def commands(block: Block) -> list[str]:
    """The command lines of a shell block, without comments; a line that ends in a backslash goes on."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def shortened(text: str) -> str:
    for pattern, replacement in SHORTER:
        text = re.sub(pattern, replacement, text)
    return text


def fill(folder: Path) -> None:
    """The files that the pages speak of."""
    text = "\n\n".join(pydoc_data.topics.topics.values())[:60_000]
    (folder / "corpus").mkdir()
    for name in ("book.txt", "letter.txt", "more.jsonl", "corpus/one.txt", "corpus/two.txt"):
        content = json.dumps({"text": text[:5000]}) + "\n" if name.endswith(".jsonl") else text[: 400 if name == "letter.txt" else None]
        (folder / name).write_text(content, "utf-8")
    (folder / "list.txt").write_text("The \nA \n", "utf-8")
    records = [{"prompt": f"Which number follows {i}?", "response": str(i + 1)} for i in range(60)]
    for name in ("answers.jsonl", "chats.jsonl"):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    (folder / "build.log").write_text("ModuleNotFoundError: No module named 'torch'\n", "utf-8")
    (folder / "requirements.txt").write_text("mamba-ssm==2.2.2\n", "utf-8")
    shutil.copy(Path(__file__).parents[1] / "installer" / "machines" / "linux_h100_cu130.json", folder / "MACHINE.json")
    for name in ("train.py", "PROGRAM.py", "package/module.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("import mamba_ssm, causal_conv1d\nprint(mamba_ssm.__version__)\n", "utf-8")
