"""A curve in the terminal: braille dots, eight to a character, or asterisks where the terminal cannot show them."""

from __future__ import annotations

import math
from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of the dot in row 0-3, column 0-1 of a braille character (Unicode 2800)."""

Series = Sequence[tuple[float, float]]


def chart(series: Sequence[tuple[str, Series]], width: int = 72, height: int = 12, ascii_only: bool = False) -> str:
    """The text of a chart with axes; one line of legend when there are two series or more.

    series: (name, points); later series are drawn over earlier ones, in the terminal with the same dots. Points that are not
    finite are left out. An empty string when there is nothing to draw.
    """
    finite = [(name, [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]) for name, points in series]
    every = [point for _, points in finite for point in points]
    if not every:
        return ""
    low_x, high_x = min(x for x, _ in every), max(x for x, _ in every)
    low_y, high_y = min(y for _, y in every), max(y for _, y in every)
    if high_y == low_y:
        low_y, high_y = low_y - 0.5, high_y + 0.5
    labels = [f"{high_y:.3g}", f"{(high_y + low_y) / 2:.3g}", f"{low_y:.3g}"]
    margin = max(map(len, labels))
    columns = max(10, width - margin - 2)
    across, down = (1, 1) if ascii_only else (2, 4)
    cells = [[0] * columns for _ in range(height)]
    for _, points in finite:
        before: int | None = None
        for x, y in _filled(points, low_x, high_x, columns * across):
            row = round((high_y - y) / (high_y - low_y) * (height * down - 1))
            # a steep curve is one line, not dots far apart
            start = row if before is None or abs(row - before) <= 1 else before + (1 if row > before else -1)
            for dot in range(min(start, row), max(start, row) + 1):
                cells[dot // down][x // across] |= 1 if ascii_only else _DOTS[dot % down][x % across]
            before = row
    lines = []
    for index, row_cells in enumerate(cells):
        label = {0: labels[0], height // 2: labels[1], height - 1: labels[2]}.get(index, "")
        marks = "".join((" *"[cell] if ascii_only else chr(0x2800 + cell)) for cell in row_cells)
        lines.append(f"{label:>{margin}} {'|' if ascii_only else '│'}{marks}")
    left, right = f"{low_x:g}", f"{high_x:g}"
    lines.append(" " * (margin + 2) + left + right.rjust(columns - len(left)))
    if len(finite) > 1:
        lines.append(" " * (margin + 2) + " · ".join(name for name, _ in finite))
    return "\n".join(lines)


def _filled(points: Series, low: float, high: float, columns: int) -> list[tuple[int, float]]:
    """(column, y): the mean of the points that fall into a column, and straight lines over columns without any."""
    sums: dict[int, list[float]] = {}
    for x, y in points:
        column = round((x - low) / (high - low) * (columns - 1)) if high > low else 0
        sums.setdefault(column, []).append(y)
    means = sorted((column, sum(values) / len(values)) for column, values in sums.items())
    filled = means[:1]
    for (start, first), (end, last) in zip(means, means[1:]):
        filled += [(start + i, first + (last - first) * i / (end - start)) for i in range(1, end - start + 1)]
    return filled
