"""Curves as PNG with numpy and zlib alone: drawn at twice the size and averaged down, letters from a 5 x 7 bitmap font.

Letters outside ASCII become "?": an SVG shows every script.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from anymamba.training.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, label

OVER = 2
"""Drawn pixels to a pixel of the picture."""

_LETTERS = (
    " ~0000000000|!~00005f0000|%~2313086462|(~001c224100|)~0041221c00|+~08083e0808|,~0050300000|-~0808080808|"
    ".~0060600000|/~2010080402|0~3e5149453e|1~00427f4000|2~4261514946|3~2141454b31|4~1814127f10|5~2745454539|"
    "6~3c4a494930|7~0171090503|8~3649494936|9~064949291e|:~0036360000|=~1414141414|?~0201510906|A~7e1111117e|"
    "B~7f49494936|C~3e41414122|D~7f4141221c|E~7f49494941|F~7f09090901|G~3e4149497a|H~7f0808087f|I~00417f4100|"
    "J~2040413f01|K~7f08142241|L~7f40404040|M~7f020c027f|N~7f0408107f|O~3e4141413e|P~7f09090906|Q~3e4151215e|"
    "R~7f09192946|S~4649494931|T~01017f0101|U~3f4040403f|V~1f2040201f|W~3f4038403f|X~6314081463|Y~0708700807|"
    "Z~6151494543|_~4040404040|a~2054545478|b~7f48444438|c~3844444420|d~384444487f|e~3854545418|f~087e090102|"
    "g~0c5252523e|h~7f08040478|i~00447d4000|j~2040443d00|k~7f10284400|l~00417f4000|m~7c04180478|n~7c08040478|"
    "o~3844444438|p~7c14141408|q~081414187c|r~7c08040408|s~4854545420|t~043f444020|u~3c4040207c|v~1c2040201c|"
    "w~3c4030403c|x~4428102844|y~0c5050503c|z~4464544c44"
)
_FONT = {letter: bytes.fromhex(columns) for letter, columns in (pair.split("~") for pair in _LETTERS.split("|"))}
"""Letter -> its five columns, the lowest bit on top."""

Canvas = np.ndarray[Any, Any]


def png(axes: Axes) -> bytes:
    """The file's content: WIDTH x HEIGHT, 8 bits a channel."""
    canvas = np.full((HEIGHT * OVER, WIDTH * OVER, 3), 255, dtype=np.uint8)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in axes.y_ticks:
        y = axes.y(value)
        _line(canvas, [(LEFT, y), (right, y)], "#e5e7eb", 0.5)
        _text(canvas, label(value), LEFT - 8, y, anchor=1.0)
    for value in axes.x_ticks:
        x = axes.x(value)
        _line(canvas, [(x, bottom), (x, bottom + 5)], "#9ca3af", 0.5)
        _text(canvas, label(value), x, bottom + 16, anchor=0.5)
    _line(canvas, [(LEFT, TOP), (LEFT, bottom), (right, bottom)], "#9ca3af", 0.5)
    _text(canvas, axes.x_name, (LEFT + right) / 2, HEIGHT - 14, anchor=0.5)
    _text(canvas, axes.y_name, 14, (TOP + bottom) / 2, anchor=0.5, upright=True)
    for number, curve in enumerate(axes.curves):
        _line(canvas, [(axes.x(x), axes.y(y)) for x, y in curve.points], curve.colour, 1.0, curve.dashed)
        y = TOP + 10 + 18 * number
        _line(canvas, [(right - 34, y), (right - 8, y)], curve.colour, 1.0, curve.dashed)
        _text(canvas, curve.name, right - 42, y, anchor=1.0)
    small = canvas.reshape(HEIGHT, OVER, WIDTH, OVER, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    return _encode(small)


def _encode(pixels: Canvas) -> bytes:
    """PNG (ISO/IEC 15948): signature, header, one compressed stream of rows without filters, end."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _line(canvas: Canvas, points: list[tuple[float, float]], colour: str, radius: float, dashed: bool = False) -> None:
    """Straight lines through the points, 2 * radius pixels wide, drawn by stamping a disc along them."""
    xs, ys, walked = [], [], 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:] or points):
        length = float(np.hypot(x1 - x0, y1 - y0))
        along = np.linspace(0.0, 1.0, int(length * OVER) + 2)
        if dashed:
            along = along[(walked + along * length) % 10 < 6]
        xs.append((x0 + (x1 - x0) * along) * OVER)
        ys.append((y0 + (y1 - y0) * along) * OVER)
        walked += length
    if not xs:
        return
    reach = max(1, round(radius * OVER))
    offsets = np.arange(-reach, reach + 1)
    down, across = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    inside = down**2 + across**2 <= (radius * OVER) ** 2 + 0.5
    rows = (np.concatenate(ys).round().astype(int)[:, None] + down[inside]).ravel()
    columns = (np.concatenate(xs).round().astype(int)[:, None] + across[inside]).ravel()
    seen = (rows >= 0) & (rows < canvas.shape[0]) & (columns >= 0) & (columns < canvas.shape[1])
    canvas[rows[seen], columns[seen]] = _rgb(colour)


def _text(canvas: Canvas, text: str, x: float, y: float, anchor: float, upright: bool = False) -> None:
    """Centred on y; anchor: which part of the text stands at x, 0 its left end, 1 its right end. upright: turned to the left."""
    scale = OVER  # 5 x 7 dots of one pixel of the picture each, and half as much again
    dots = np.zeros((7, 6 * len(text)), dtype=bool)
    for index, letter in enumerate(text):
        for column, bits in enumerate(_FONT.get(letter, _FONT["?"])):
            dots[:, 6 * index + column] = [bool(bits >> row & 1) for row in range(7)]
    mask = np.kron(dots, np.ones((scale * 3 // 2, scale * 3 // 2), dtype=bool))
    if upright:
        mask = np.rot90(mask)
        top, left = y * OVER - mask.shape[0] * anchor, x * OVER - mask.shape[1] / 2
    else:
        top, left = y * OVER - mask.shape[0] / 2, x * OVER - mask.shape[1] * anchor
    rows, columns = np.nonzero(mask)
    rows, columns = rows + round(top), columns + round(left)
    seen = (rows >= 0) & (rows < canvas.shape[0]) & (columns >= 0) & (columns < canvas.shape[1])
    canvas[rows[seen], columns[seen]] = _rgb("#374151")
