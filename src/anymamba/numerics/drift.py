"""Two sides read the same text, or write their own: where and how far they drift, and whether that is rounding or a fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from anymamba.language import _
from anymamba.models.lm import LanguageModel
from anymamba.numerics.document import finite
from anymamba.numerics.sides import Scorer, Side

PIECE = 512
"""Tokens compared at once; also a window of the report."""


@dataclass
class Window:
    """Of the tokens up to ``position``. logit_difference: largest absolute one; kl: mean KL divergence of the two distributions, nats;
    disagreements: positions whose likeliest token differs; state_norm: of side A's states; state_difference: relative to it; both
    None inside a text that a side reads in one pass, which shows its state only at the end."""

    position: int
    logit_difference: float
    kl: float
    disagreements: int
    state_norm: float | None
    state_difference: float | None


@dataclass
class Drift:
    """Teacher-forced: both sides read the same ``tokens``. slope: change of the largest logit difference over the whole text, by a
    straight line through the windows; slope_error: its standard error; logit_scale: standard deviation of side A's logits."""

    a: str
    b: str
    tokens: int
    windows: list[Window] = field(default_factory=list)
    logit_scale: float = 0.0
    layer_differences: list[float] = field(default_factory=list)

    @property
    def largest(self) -> float:
        differences = [window.logit_difference for window in self.windows]
        return math.nan if any(map(math.isnan, differences)) else max(differences, default=0.0)

    @property
    def mean_kl(self) -> float:
        return sum(window.kl for window in self.windows) / max(len(self.windows), 1)

    @property
    def disagreements(self) -> int:
        return sum(window.disagreements for window in self.windows)

    @property
    def slope(self) -> float:
        return self._line()[0] * self.tokens

    @property
    def slope_error(self) -> float | None:
        error = self._line()[1]
        return None if error is None else error * self.tokens

    @property
    def grows(self) -> bool:
        """Is the difference larger at the end than at the beginning by more than chance and more than a quarter of the largest."""
        error = self.slope_error
        return error is not None and self.slope > max(4 * error, self.largest / 4)

    def _line(self) -> tuple[float, float | None]:
        return line([w.position for w in self.windows], [w.logit_difference for w in self.windows])

    def as_dict(self) -> dict[str, Any]:
        totals = {
            "largest_logit_difference": self.largest, "mean_kl": self.mean_kl, "disagreements": self.disagreements, "slope": self.slope,
            "slope_error": self.slope_error, "grows": self.grows,
        }  # fmt: skip
        return finite({**asdict(self), **totals})


@dataclass
class Divergence:
    """Greedy: each side writes its own text. position: first token that differs, None if none does. margin_a, margin_b: between the
    two likeliest tokens there; logit_difference: between the sides there."""

    tokens: int
    position: int | None = None
    token_a: int | None = None
    token_b: int | None = None
    margin_a: float = 0.0
    margin_b: float = 0.0
    logit_difference: float = 0.0


def teacher_forced(
    model: LanguageModel,
    a: Side,
    b: Side,
    text: Iterator[Tensor],
    tokens: int,
    progress: Callable[[int], None] | None = None,
) -> Drift:
    """Both sides read ``tokens`` tokens from ``text``, an iterator of pieces (tokens,).

    Memory does not grow with the length, unless a side reads the whole text in one pass.
    """
    scorers = Scorer(model, a), Scorer(model, b)
    if "whole" in (a.mode, b.mode):
        ids = torch.cat(list(_first(text, tokens)))
        for scorer in scorers:
            scorer.prepare(ids)
        text = pieces_of(ids)
    drift = Drift(a.name, b.name, 0)
    squares = 0.0
    for piece in _first(text, tokens):
        one, other = (scorer.read(piece) for scorer in scorers)
        states = [scorer.states() for scorer in scorers]
        drift.tokens += len(piece)
        squares += float(one.var(dim=-1).sum())
        drift.windows.append(_window(drift.tokens, one, other, *states))
        if states[0] is not None and states[1] is not None:
            drift.layer_differences = [_relative(x, y) for x, y in zip(states[0], states[1])]
        if progress:
            progress(drift.tokens)
    drift.logit_scale = math.sqrt(squares / max(drift.tokens, 1))
    return drift


def greedy(model: LanguageModel, a: Side, b: Side, prompt: Tensor, tokens: int) -> Divergence:
    """Both sides continue the prompt (tokens,) greedily until they choose different tokens, or for ``tokens`` tokens."""
    scorers = Scorer(model, a), Scorer(model, b)
    logits = [scorer.read(prompt)[-1] for scorer in scorers]
    for position in range(tokens):
        chosen = [int(row.argmax()) for row in logits]
        if chosen[0] != chosen[1]:
            margins = [float(torch.sub(*row.topk(2).values)) for row in logits]
            difference = float((logits[0] - logits[1]).abs().max())
            return Divergence(position + 1, position, chosen[0], chosen[1], margins[0], margins[1], difference)
        logits = [scorer.read(torch.tensor(chosen[:1]))[-1] for scorer in scorers]
    return Divergence(tokens)


FINE, COARSE = 1000, 100
"""Units of rounding, on the scale of the logits, that may add up over the layers: float32 and float64; 16-bit types, whose single
units stand out of the sum of many."""


def verdict(drift: Drift, divergence: Divergence | None, rounding: float) -> tuple[bool, str]:
    """(True: only rounding, or False: a fault; in words). rounding: unit roundoff of the coarser side's dtype.

    Rounding of every layer's products and sums perturbs logits by some ten to a hundred units of their own scale; it neither grows
    without bound, since the state forgets, nor does it overturn a clear choice.
    """
    limit = (FINE if rounding < 1e-5 else COARSE) * rounding * max(drift.logit_scale, 1e-6)
    if not drift.largest <= limit:  # written so that NaN is a fault
        return False, _("a fault: logits differ by {largest:.2g}, more than rounding explains ({allowed:.2g})").format(
            largest=drift.largest, allowed=limit
        )
    if divergence is not None and divergence.position is not None:
        if min(divergence.margin_a, divergence.margin_b) > 2 * max(divergence.logit_difference, drift.largest):
            return False, _(
                "a fault: at token {position} a clear choice (margin {margin_a:.2g}) was overturned"
            ).format(position=divergence.position, margin_a=divergence.margin_a)
        return True, _(
            "rounding that greedy decoding turned into another text: at token {position} the two likeliest tokens "
            "were {margin_a:.2g} apart, and the sides differ by {logit_difference:.2g} there"
        ).format(
            position=divergence.position, margin_a=divergence.margin_a, logit_difference=divergence.logit_difference
        )
    if drift.largest == 0:
        return True, _("identical to the last bit")
    same = _(", and the texts are the same") if divergence is not None else ""
    return True, _("rounding only: logits differ by at most ") + f"{drift.largest:.2g}{same}"


def slope(x: list[int], y: list[float]) -> float:
    """Of the least-squares line; 0 for fewer than two points."""
    return line(x, y)[0]


def line(x: list[int], y: list[float]) -> tuple[float, float | None]:
    """Slope of the least-squares line, and its standard error (None for fewer than three points)."""
    if len(x) < 2:
        return 0.0, None
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    rise = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / spread
    if len(x) < 3:
        return rise, None
    rest = sum((b - mean_y - rise * (a - mean_x)) ** 2 for a, b in zip(x, y))
    return rise, math.sqrt(rest / (len(x) - 2) / spread)


def _first(text: Iterator[Tensor], tokens: int) -> Iterator[Tensor]:
    """So many tokens of it, in its pieces."""
    for piece in text:
        piece = piece[:tokens]
        tokens -= len(piece)
        if len(piece):
            yield piece
        if tokens <= 0:
            return


def pieces_of(ids: Tensor) -> Iterator[Tensor]:
    """A text (tokens,) in pieces."""
    yield from ids.split(PIECE)


def sampled_text(model: LanguageModel) -> Iterator[Tensor]:
    """Text that the model itself writes at temperature 1, without end, in pieces: what it is likely to meet in long generations."""
    from anymamba.generation.engine import stream

    start = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    piece: list[int] = []
    for step in stream(model, start, -1, eos=[], temperature=1.0, seed=0):
        piece.append(int(step.ids[0]))
        if len(piece) == PIECE:
            yield torch.tensor(piece)
            piece = []


def _window(
    position: int, one: Tensor, other: Tensor, states: list[Tensor] | None, other_states: list[Tensor] | None
) -> Window:
    log_p, log_q = one.log_softmax(-1), other.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    norm = apart = None
    if states is not None:
        norm = math.sqrt(sum(float(state.square().sum()) for state in states))
        if other_states is not None:
            squares = sum(float((x - y).square().sum()) for x, y in zip(states, other_states))
            apart = math.sqrt(squares) / max(norm, 1e-30)
    return Window(
        position,
        float((one - other).abs().max()),
        max(float(kl), 0.0),
        int((one.argmax(-1) != other.argmax(-1)).sum()),
        norm,
        apart,
    )


def _relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / x.norm().clamp_min(1e-30))
