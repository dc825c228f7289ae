"""Control characters of a model's text act on no terminal, and files keep them."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest

from anymamba.cli.terminal.confidence import Marker
from anymamba.generation.text import Piece
from anymamba.printable import Printable, one_json_line, shown

EVERYTHING = "".join(map(chr, range(0x100)))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_control_character_but_line_feed_and_tab_reaches_a_terminal() -> None:
    text = shown(EVERYTHING + "猫\x1b[2J\x1b]0;title\x07\x9b31m", Terminal())
    assert {character for character in text if unicodedata.category(character) == "Cc"} == {"\n", "\t"}
    assert "␛[2J" in text and "猫" in text and "␇" in text


def test_a_file_gets_the_text_as_it_is() -> None:
    assert shown(EVERYTHING, io.StringIO()) == EVERYTHING


@pytest.mark.parametrize(
    ("parts", "expected"), [(["a\r", "\nb"], "a\nb"), (["a\r", "b"], "a␍b"), (["a\r\r\n"], "a␍\n"), (["\r\n", "\r\n"], "\n\n")]
)
def test_carriage_returns(parts: list[str], expected: str) -> None:
    printable = Printable(Terminal())
    assert "".join(printable.show(part) for part in parts) == expected


def test_the_streamed_text_is_filtered_marked_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for marking in (False, True):
        stream = Terminal()
        Marker(stream, marking).write(Piece("\x1b[2J", 27, 0.9, 1.0))
        assert stream.getvalue() == "␛[2J"


def test_json_escapes_every_control_character() -> None:
    line = one_json_line({"text": EVERYTHING})
    assert not [character for character in line if unicodedata.category(character) == "Cc"]
    assert json.loads(line)["text"] == EVERYTHING
