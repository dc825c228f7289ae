"""Streaming shows whole characters only, and together they are the text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymamba.generation.detokenize import StopStrings, StreamingDetokenizer


def decode_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.text())
def test_pieces_of_any_text_are_whole_and_add_up(text: str) -> None:
    detokenizer = StreamingDetokenizer(decode_bytes)
    shown = [detokenizer.add(byte) for byte in text.encode()]
    shown.append(detokenizer.finish())
    assert "".join(shown) == text


def test_no_piece_holds_half_a_character() -> None:
    detokenizer = StreamingDetokenizer(decode_bytes)
    pieces = [detokenizer.add(byte) for byte in "语言😀模型".encode()]
    assert [piece for piece in pieces if piece] == ["语", "言", "😀", "模", "型"]


def test_a_character_after_a_stray_byte_still_comes_whole() -> None:
    detokenizer = StreamingDetokenizer(decode_bytes)
    shown = "".join(detokenizer.add(byte) for byte in b"\xff" + "😀!".encode())
    assert shown == "\ufffd😀!"


def test_endless_stray_bytes_are_shown_at_last() -> None:
    detokenizer = StreamingDetokenizer(decode_bytes)
    assert "\ufffd" in "".join(detokenizer.add(0xFF) for _ in range(20))


def test_a_dropped_leading_space_is_kept_inside_a_text() -> None:
    words = {1: " the", 2: " cat"}

    def decode(ids: Sequence[int]) -> str:  # like sentencepiece: the first word of any text loses its space
        return "".join(words[i] for i in ids).removeprefix(" ")

    detokenizer = StreamingDetokenizer(decode)
    assert [detokenizer.add(1), detokenizer.add(2), detokenizer.add(1)] == ["the", " cat", " the"]


@pytest.mark.parametrize("cut", range(1, 9))
def test_stop_string_is_found_however_the_text_is_cut(cut: int) -> None:
    text, stops = "one two</end>three", StopStrings(["</end>", "never"])
    shown = "".join(stops.add(text[i : i + cut]) for i in range(0, len(text), cut))
    assert shown == "one two" and stops.found == "</end>"


def test_the_beginning_of_a_stop_string_waits_and_is_shown_at_the_end() -> None:
    stops = StopStrings(["</end>"])
    assert stops.add("a </e") == "a "
    assert stops.add("lse") == "</else"
    assert stops.add(" <") == " "
    assert stops.finish() == "<"
