"""Where things go in a picture of curves: ticks, scales, series from metrics. What ``svg`` and ``png`` share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from anymamba.errors import AnymambaError
from anymamba.language import N_, _
from anymamba.training.run.runfolder import read_metrics

WIDTH, HEIGHT = 960, 540
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 24, 56
"""Pixels of the picture and of its margins."""

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")

X_NAMES = {"step": N_("step"), "tokens": N_("tokens"), "seconds": N_("seconds")}
Y_NAMES = {
    "loss": N_("loss (nats a token)"),
    "bits_per_byte": N_("bits per byte, held out"),
    "perplexity": N_("perplexity, held out"),
    "lr": N_("learning rate"),
    "tokens_per_s": N_("tokens a second"),
    "grad_norm": N_("norm of the gradient"),
}


@dataclass
class Curve:
    """points: (x, y). dashed: held-out values beside the training's."""

    name: str
    colour: str
    points: list[tuple[float, float]]
    dashed: bool = False


@dataclass
class Axes:
    """Curves, and how their values become pixels. log_y: a logarithmic vertical scale."""

    curves: list[Curve]
    x_name: str
    y_name: str
    log_y: bool = False
    x_ticks: list[float] = field(init=False)
    y_ticks: list[float] = field(init=False)

    def __post_init__(self) -> None:
        points = [point for curve in self.curves for point in curve.points]
        xs, ys = [x for x, _ in points], [self._scale(y) for _, y in points]
        self._x = _widened(min(xs), max(xs))
        low, high = _widened(min(ys), max(ys))
        self._y = low - 0.04 * (high - low), high + 0.04 * (high - low)
        self.x_ticks = ticks(*self._x)
        self.y_ticks = (
            log_ticks(10 ** self._y[0], 10 ** self._y[1]) if self.log_y else ticks(*self._y)
        )

    def _scale(self, y: float) -> float:
        return math.log10(y) if self.log_y else y

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self._x
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self._y
        return TOP + (high - self._scale(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)


def curves_of(runs: list[Path], x: str, y: str, smooth: float) -> list[Curve]:
    """The curves of metrics.jsonl files. smooth: weight of the past in a running mean of training values, 0 for none.

    Raises AnymambaError when a folder is no run or has no such values.
    """
    curves: list[Curve] = []
    for index, run in enumerate(runs):
        rows = read_metrics(run)
        if not rows:
            raise AnymambaError(
                "run-folder",
                _("{run} has no metrics.jsonl with steps in it").format(run=run),
                fix=_("name the folders of runs: anymamba plot runs/*"),
            )
        colour = COLOURS[index % len(COLOURS)]
        latest: dict[str, float] = {}
        series: dict[str, list[tuple[float, float]]] = {y: [], "val_loss": []}
        for row in rows:
            latest.update({name: row[name] for name in X_NAMES if name in row})
            for name in series:
                if isinstance(row.get(name), (int, float)) and math.isfinite(row[name]) and x in latest:
                    series[name].append((latest[x], row[name]))
        name = run.resolve().name
        if series[y]:
            curves.append(Curve(name, colour, smoothed(series[y], smooth)))
        if y == "loss" and series["val_loss"]:
            curves.append(Curve(name + _(", held out"), colour, series["val_loss"], dashed=True))
    if not curves:
        raise AnymambaError("run-folder", _("no run has values of {y!r}").format(y=y))
    return curves


def smoothed(points: list[tuple[float, float]], weight: float) -> list[tuple[float, float]]:
    """Exponential running mean, corrected at its beginning."""
    result, mean, total = [], 0.0, 0.0
    for x, y in points:
        mean, total = weight * mean + (1 - weight) * y, weight * total + (1 - weight)
        result.append((x, mean / total))
    return result


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from low to high."""
    raw = (high - low) / wanted
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 in every power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [value for value in ticks if low <= value <= high] or [low, high]


def label(value: float) -> str:
    """``1500``, ``0.003``, ``2.5M``."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.6g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}"


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)
