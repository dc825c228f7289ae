"""Records commands as SVG pictures of a terminal: docs/images/terminal-<name>.svg, shown at the top of the README.

    python scripts/record_terminal.py            # all of them; the demo trains for two minutes
    python scripts/record_terminal.py doctor     # one

The commands run in a pseudo-terminal, so they print what a person sees; rich draws the picture.
"""

from __future__ import annotations

import errno
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
COLUMNS, LINES = 100, 60
LOG = ROOT / "tests" / "doctor" / "logs" / "recorded_mamba_isolated.txt"
COMMANDS = {
    "demo": "anymamba demo",
    "train": "anymamba train book.txt --size tiny --max-minutes 1",
    "doctor": "anymamba doctor build.log",
    "backends": "anymamba backends",
}


def screen_of(command: str, folder: Path) -> list[Text]:
    """The last screenful of the command's output, as a terminal would show it."""
    main, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(COLUMNS), "LINES": str(LINES), "ANYMAMBA_LANG": "en"}
    words = [sys.executable, "-m", *command.split()]
    process = subprocess.Popen(words, cwd=folder, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    screen = pyte.HistoryScreen(COLUMNS, LINES, history=1000)
    stream = pyte.ByteStream(screen)
    while True:
        try:
            data = os.read(main, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the program has closed its terminal
                raise
            break
        if not data:
            break
        stream.feed(data.replace(b"\n", b"\r\n"))
    process.wait()
    lines = [styled(screen.buffer[row]) for row in range(LINES)]
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def styled(row: Any) -> Text:
    """A row of the screen with its colours."""
    line = Text()
    for column in range(COLUMNS):
        cell = row[column]
        colour = "#" + cell.fg if re.fullmatch(r"[0-9a-f]{6}", cell.fg) else cell.fg.replace("brown", "yellow")
        line.append(cell.data, f"{'bold ' if cell.bold else ''}{colour}")
    line.rstrip()
    return line


def record(name: str, folder: Path) -> None:
    command = COMMANDS[name]
    lines = screen_of(command, folder)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text(f"$ {command}", style="bold"))
        for line in lines:
            console.print(line)
        # one id for every picture: rich makes a new one from the content, and all rules would change with a digit
        picture = console.export_svg(title="anymamba", unique_id=f"terminal-{name}")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)  # fonts of another host; monospace follows them
    (IMAGES / f"terminal-{name}.svg").write_text(picture, encoding="utf-8")


def main(names: list[str]) -> None:
    import pydoc_data.topics

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "book.txt").write_text("\n\n".join(pydoc_data.topics.topics.values()), "utf-8")
        shutil.copy(LOG, folder / "build.log")
        for name in names or COMMANDS:
            record(name, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
