"""A font of this machine that has the characters of a text. Pillow brings one for Latin letters; Chinese needs the system's."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _

_CHINESE = (
    "notosanscjk", "notosanssc", "sourcehansans", "sourcehansanssc", "msyh", "pingfang", "hiragino sans gb", "stheiti", "wqy-microhei",
    "wqy-zenhei", "droidsansfallback", "simhei", "simsun", "ukai", "uming", "arial unicode", "notoserifcjk",
)  # fmt: skip
"""Beginnings of the file names of fonts with Chinese characters, the better looking first."""


def pillow() -> Any:
    """The module PIL. Raises AnymambaError with the extra that brings it, and the form of picture that needs none."""
    try:
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
    except ImportError as error:
        raise AnymambaError(
            "dependency",
            _("PNG pictures need the package Pillow"),
            why=str(error),
            fix=_("pip install 'anymamba[plot]', or end the name in .svg, which needs nothing"),
        ) from error
    return PIL


def font_for(text: str, size: int) -> Any:
    """A font that has every character of the text, or None."""
    for font in (_latin(size), _chinese(size)):
        if font is not None and not _lacking(font, text):
            return font
    return None


def lacking(texts: Iterable[str], size: int) -> list[str]:
    """Those of the texts that no font here can show."""
    return [text for text in texts if font_for(text, size) is None]


def _lacking(font: Any, text: str) -> bool:
    empty = _shape(font, "\U0010ffff")  # no font has this character: it is drawn as the box for missing ones
    return any(ord(character) > 126 and not character.isspace() and _shape(font, character) == empty for character in text)


def _shape(font: Any, character: str) -> tuple[Any, bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


@functools.cache
def _latin(size: int) -> Any:
    return pillow().ImageFont.load_default(size)


@functools.cache
def _chinese(size: int) -> Any:
    for path in sorted(_chinese_files(), key=_rank):
        try:
            font = pillow().ImageFont.truetype(path, size)
        except OSError:
            continue  # a file that is no font that FreeType reads; the next may be one
        if not _lacking(font, "损失步数验证"):
            return font
    return None


def _rank(path: str) -> int:
    name = Path(path).name.lower()
    return next(place for place, begin in enumerate(_CHINESE) if name.startswith(begin))


def _chinese_files() -> Iterator[str]:
    for folder in _folders():
        for place, __, names in os.walk(folder):
            for name in names:
                if name.lower().startswith(_CHINESE) and name.lower().endswith((".ttf", ".ttc", ".otf")):
                    yield os.path.join(place, name)


def _folders() -> list[str]:
    if sys.platform == "win32":
        own = os.path.join(os.environ.get("LOCALAPPDATA", ""), "Microsoft", "Windows", "Fonts")
        return [os.path.join(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"), own]
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return ["/System/Library/Fonts", "/Library/Fonts", os.path.join(home, "Library/Fonts")]
    data = os.environ.get("XDG_DATA_HOME", os.path.join(home, ".local/share"))
    # the last is where WSL sees the fonts of Windows
    return [
        "/usr/share/fonts", "/usr/local/share/fonts", os.path.join(data, "fonts"), os.path.join(home, ".fonts"), "/mnt/c/Windows/Fonts",
    ]  # fmt: skip
