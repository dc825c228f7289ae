"""A log of any length into a bounded number of cleaned lines.

A log up to WHOLE characters is kept whole. Of a longer one the first HEAD and the last TAIL characters are kept, and
from between them the lines that may matter: those with one of the WORDS in them, each kind of line a few times.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Dict, Iterator, List, NamedTuple, Tuple

from anymamba.doctor.cleaning import clean
from anymamba.doctor.encoding import Readable, chunks
from anymamba.language import _

WHOLE = 240_000
HEAD = 80_000
TAIL = 100_000
MIDDLE = 200_000
LONGEST_LINE = 2000
SAME_KIND = 3
MOST_KINDS = 50_000

# every signature has one of these near it (tests/doctor/test_reading.py holds that)
# fmt: off
WORDS = (
    "rror", "ERROR", "atal", "xception", "raceback", "undefined", "No module", "ot found", "annot find",
    "annot open", "annot import", "annot be ", "annot access", "annot select", "Killed", "died", "Guessing",
    "torch.__version__", "ould not", "No such", "nsupported", "ismatch", "Using cached", "overlay", "Collecting",
    "Building wheel", "Failed", "Precompiled", "build dependencies", "not available", "alling back", "equired",
    "requires", "causal_conv1d", "causal-conv1d", "selective_scan", "no kernel image", "conflict", "pip install",
    "signal", "out of memory", "not installed", "aarch64", "ROCm", "rocm", "gfx", "WSL", "PyTorch version",
    "Name: torch", "/Users/", "CUDA capability", "amba", "nvalid", "too old", "错误", "找不到", "无法", "没有",
    "缺少", "失败", "致命", "nvcc", "ausal", "Version:", "nargs", "ssert", "orch 2",
)
# fmt: on

_NO_DIGITS = str.maketrans("", "", "0123456789")


_IMAGE_BUILD = re.compile(r"^[^#\n]{0,40}#\d+ \d+\.\d+ ", re.M)
_NEW_MESSAGE = re.compile(
    r"[A-Z]\w*(?:Error|Warning|Exception)\b|Traceback|File \"|ERROR|error:|warning:|Collecting|Building|Installing|note:"
)


class Line(NamedTuple):
    """number: of the line in the file, from 1."""

    number: int
    text: str


class Reading(NamedTuple):
    lines: List[Line]
    line_count: int
    characters: int
    encoding: str
    shortened: bool
    image_build: bool = False
    """Lines began as those of docker build do, before they were cleaned."""


class NotALog(Exception):
    """The input is empty, or is no text."""


def read(stream: Readable) -> Reading:
    """Reads the stream to its end; a few MB of memory, whatever its length. Raises NotALog for nothing and for binary data."""
    buffered: List[Tuple[int, str]] = []  # (number of the first line, text) while the log may still be kept whole
    held = 0
    number = 1
    encoding = "utf-8"
    total = 0
    middle = _Middle()
    tail: List[Tuple[int, str]] = []
    tail_size = 0
    shortened = False
    for used, text in chunks(stream):
        if not total and _is_binary(text):
            raise NotALog(
                _("anymamba doctor: this is binary data, not the text of a log; give what the program printed")
            )
        encoding = used if used != "utf-8" else encoding
        total += len(text)
        if not shortened:
            buffered.append((number, text))
            held += len(text)
        else:
            tail.append((number, text))
            tail_size += len(text)
        number += text.count("\n")
        if not shortened and held > WHOLE:
            shortened = True
            first, joined = buffered[0][0], "".join(piece for _, piece in buffered)
            cut = joined.rfind("\n", 0, HEAD) + 1 or HEAD
            buffered = [(first, joined[:cut])]
            tail = [(first + joined.count("\n", 0, cut), joined[cut:])]
            tail_size = len(joined) - cut
        while shortened and len(tail) > 1 and tail_size - len(tail[0][1]) > TAIL:
            start, piece = tail.pop(0)
            tail_size -= len(piece)
            middle.add(start, piece)
    if not shortened and not any(text.strip() for _, text in buffered):
        raise NotALog(
            _("anymamba doctor: the log is empty; record one with: pip install -v mamba-ssm > build.log 2>&1")
        )
    lines: List[Line] = []
    image_build = _IMAGE_BUILD.search(buffered[0][1] if buffered else "") is not None
    if shortened:
        lines.extend(_lines(*buffered[0]))
        start, joined = tail[0][0], "".join(piece for _, piece in tail)
        cut = joined.rfind("\n", 0, max(0, len(joined) - TAIL)) + 1 or max(0, len(joined) - TAIL)
        middle.add(start, joined[:cut])
        lines.extend(middle.lines)
        lines.extend(_lines(start + joined.count("\n", 0, cut), joined[cut:]))
    else:
        lines.extend(_lines(1, _unwrap("".join(piece for _, piece in buffered))))
    return Reading(lines, max(1, number - (1 if number > 1 else 0)), total, encoding, shortened, image_build)


def _is_binary(text: str) -> bool:
    """More than a tenth of the beginning is control characters or no text at all; a log may hold a few NULs and escapes."""
    head = text[:4096]
    odd = sum(1 for character in head if character == "\ufffd" or (ord(character) < 32 and character not in "\t\n\r\x08\x1b"))
    return odd > 0.1 * len(head)


def _lines(number: int, text: str) -> Iterator[Line]:
    for offset, raw in enumerate(text.split("\n")):
        # a progress bar writes its states over one another; each of them is a line here
        for part in raw.split("\r"):
            cleaned = clean(part)
            if len(cleaned) > LONGEST_LINE:
                yield from (Line(number + offset, piece) for piece in _cut(cleaned))
            elif cleaned:
                yield Line(number + offset, cleaned)


def _cut(line: str) -> List[str]:
    """The two ends of a very long line, and what stands around the words that matter."""
    pieces = [line[:800]]
    for word in WORDS[:12]:
        at = line.find(word, 800, len(line) - 800)
        if at >= 0:
            pieces.append(line[max(0, at - 200) : at + 400])
    pieces.append(line[-800:])
    return pieces


class _Middle:
    def __init__(self) -> None:
        self.lines: List[Line] = []
        self._size = 0
        self._kinds: Dict[str, int] = {}

    def add(self, number: int, text: str) -> None:
        if self._size > MIDDLE:
            return
        starts = set()
        for word in WORDS:
            at = text.find(word)
            while at >= 0:
                begin = text.rfind("\n", 0, at) + 1
                starts.add(begin)
                end = text.find("\n", at)
                at = text.find(word, end) if end >= 0 else -1
        counted, passed = number, 0
        for begin in sorted(starts):
            if self._size > MIDDLE:
                return
            # cheap test first: compilers repeat the same few lines a million times with other numbers in them
            kind = text[begin : begin + 120].translate(_NO_DIGITS)
            seen = self._kinds.get(kind, 0)
            if seen >= SAME_KIND or len(self._kinds) > MOST_KINDS:
                continue
            self._kinds[kind] = seen + 1
            counted += text.count("\n", passed, begin)
            passed = begin
            end = text.find("\n", begin)
            for line in _lines(counted, text[begin : end if end >= 0 else len(text)]):
                self.lines.append(line)
                self._size += len(line.text)


def _unwrap(text: str) -> str:
    """The log without the line breaks that a terminal put into the middle of words: where several lines have exactly
    the same, greatest width, each of them goes on in the next line. The breaks move to the end, so that counts stay."""
    lines = text.split("\n")
    widths = [_width(line.rstrip("\r")) for line in lines]
    widest = max(widths)
    full = widths.count(widest)
    if not (70 <= widest <= 250 and full >= 3 and full >= 0.03 * len(lines)):
        return text
    joined: List[str] = []
    open_line, owed = False, 0
    for line, width in zip(lines, widths):
        if open_line and line[:1].strip():
            joined[-1] = joined[-1].rstrip("\r") + line
            owed += 1
        else:
            joined.extend([""] * owed)
            joined.append(line)
            owed = 0
        open_line = width == widest
    return "\n".join(joined + [""] * owed)


def rejoin(reading: Reading) -> Reading:
    """The same text with lines put together that end in the middle of a word, as far as that can be guessed: a long line that
    ends in a letter, and a next one that begins with one and is no new message. For a second try when nothing was recognised."""
    lines: List[Line] = []
    for line in reading.lines:
        last = lines[-1].text if lines else ""
        goes_on = len(last) >= 60 and last[-1].isalnum() and line.text[0].isalnum() and not _NEW_MESSAGE.match(line.text)
        if goes_on and len(last) < LONGEST_LINE:
            lines[-1] = Line(lines[-1].number, last + line.text)
        else:
            lines.append(line)
    return reading._replace(lines=lines)


def _width(line: str) -> int:
    """Columns on a terminal: a Chinese character takes two."""
    if line.isascii():
        return len(line)
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)
