"""Curves as PNG, drawn by Pillow (the extra ``plot``) at twice the size and averaged down."""

from __future__ import annotations

import io
from typing import Any

from anymamba.training.show.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, label
from anymamba.training.show.fonts import font_for, pillow

OVER = 2
"""Drawn pixels to a pixel of the picture."""

FONT_SIZE = 13 * OVER

INK, GREY, LIGHT = "#374151", "#9ca3af", "#e5e7eb"


def png(axes: Axes) -> bytes:
    """The file's content: WIDTH x HEIGHT, 8 bits a channel. Raises AnymambaError without Pillow.

    Characters that no font here has become "?": ask ``fonts.lacking`` before.
    """
    library = pillow()
    picture = library.Image.new("RGB", (WIDTH * OVER, HEIGHT * OVER), "white")
    draw = library.ImageDraw.Draw(picture)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in axes.y_ticks:
        y = axes.y(value)
        _line(draw, [(LEFT, y), (right, y)], LIGHT)
        _text(draw, label(value), LEFT - 8, y, "rm")
    for value in axes.x_ticks:
        x = axes.x(value)
        _line(draw, [(x, bottom), (x, bottom + 5)], GREY)
        _text(draw, label(value), x, bottom + 16, "mm")
    _line(draw, [(LEFT, TOP), (LEFT, bottom), (right, bottom)], GREY)
    _text(draw, axes.x_name, (LEFT + right) / 2, HEIGHT - 14, "mm")
    _upright(library, picture, axes.y_name, 14, (TOP + bottom) / 2)
    for number, curve in enumerate(axes.curves):
        points = [(axes.x(x), axes.y(y)) for x, y in curve.points]
        if len(points) == 1:
            (x, y) = points[0]
            draw.ellipse([OVER * (x - 3), OVER * (y - 3), OVER * (x + 3), OVER * (y + 3)], fill=curve.colour)
        for part in _dashes(points) if curve.dashed else [points]:
            _line(draw, part, curve.colour, 2)
        y = TOP + 10 + 18 * number
        key: Points = [(right - 34, y), (right - 8, y)]
        for part in _dashes(key) if curve.dashed else [key]:
            _line(draw, part, curve.colour, 2)
        _text(draw, curve.name, right - 42, y, "rm")
    content = io.BytesIO()
    picture.resize((WIDTH, HEIGHT), library.Image.Resampling.BOX).save(content, "PNG", optimize=True)
    return content.getvalue()


def texts_of(axes: Axes) -> list[str]:
    """Every text in the picture but the numbers."""
    return [axes.x_name, axes.y_name, *(curve.name for curve in axes.curves)]


Points = list[tuple[float, float]]
"""(x, y) in pixels of the picture."""


def _line(draw: Any, points: Points, colour: str, width: float = 1) -> None:
    if len(points) > 1:
        draw.line([(x * OVER, y * OVER) for x, y in points], fill=colour, width=round(width * OVER), joint="curve")


_DASH, _GAP = 6.0, 4.0
"""Lengths in a dashed line, in pixels of the picture."""


def _dashes(points: Points) -> list[Points]:
    """The parts of a line that a dashed one shows, measured along it."""
    parts: list[Points] = []
    place, drawing, left = points[0], True, _DASH
    part = [place]
    for target in points[1:]:
        while True:
            length = ((target[0] - place[0]) ** 2 + (target[1] - place[1]) ** 2) ** 0.5
            if length < left:
                left -= length
                place = target
                part.append(place)
                break
            share = left / length
            place = place[0] + (target[0] - place[0]) * share, place[1] + (target[1] - place[1]) * share
            if drawing:
                parts.append([*part, place])
            drawing = not drawing
            left, part = _DASH if drawing else _GAP, [place]
    return [*parts, part] if drawing else parts


def _text(draw: Any, text: str, x: float, y: float, anchor: str) -> None:
    """anchor: Pillow's, "rm" ends at x, "mm" is centred there; both are centred on y."""
    font, text = _font(text)
    draw.text((x * OVER, y * OVER), text, fill=INK, font=font, anchor=anchor)


def _upright(library: Any, picture: Any, text: str, x: float, y: float) -> None:
    """Turned to the left, centred on (x, y)."""
    font, text = _font(text)
    left, top, right, bottom = font.getbbox(text)
    mask = library.Image.new("L", (int(right - left) + 4, int(bottom - top) + 4), 0)
    library.ImageDraw.Draw(mask).text((2 - left, 2 - top), text, fill=255, font=font)
    mask = mask.rotate(90, expand=True)
    corner = round(x * OVER - mask.width / 2), round(y * OVER - mask.height / 2)
    picture.paste(INK, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)


def _font(text: str) -> tuple[Any, str]:
    font = font_for(text, FONT_SIZE)
    if font is None:
        text = text.encode("ascii", "replace").decode()
        font = font_for(text, FONT_SIZE)
    return font, text
