"""Two sides read the same text, or write their own: where and how far they drift, and whether that is rounding or a fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from anymamba.language import say
from anymamba.models.lm import LanguageModel
from anymamba.numerics.sides import Scorer, Side

PIECE = 512
"""Tokens compared at once; also a window of the report."""


@dataclass
class Window:
    """Of the tokens up to ``position``. logit_difference: largest absolute one; kl: mean KL divergence of the two distributions, nats;
    disagreements: positions whose likeliest token differs; state_norm: of side A's states; state_difference: relative to it."""

    position: int
    logit_difference: float
    kl: float
    disagreements: int
    state_norm: float
    state_difference: float


@dataclass
class Drift:
    """Teacher-forced: both sides read the same ``tokens``. slope: change of the largest logit difference over the whole text, by a
    straight line through the windows; logit_scale: standard deviation of side A's logits."""

    a: str
    b: str
    tokens: int
    windows: list[Window] = field(default_factory=list)
    logit_scale: float = 0.0
    layer_differences: list[float] = field(default_factory=list)

    @property
    def largest(self) -> float:
        return max((window.logit_difference for window in self.windows), default=0.0)

    @property
    def mean_kl(self) -> float:
        return sum(window.kl for window in self.windows) / max(len(self.windows), 1)

    @property
    def disagreements(self) -> int:
        return sum(window.disagreements for window in self.windows)

    @property
    def slope(self) -> float:
        return slope([w.position for w in self.windows], [w.logit_difference for w in self.windows]) * self.tokens

    def as_dict(self) -> dict[str, Any]:
        totals = {
            "largest_logit_difference": self.largest, "mean_kl": self.mean_kl, "disagreements": self.disagreements, "slope": self.slope,
        }  # fmt: skip
        return {**asdict(self), **totals}


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
    """Both sides read ``tokens`` tokens from ``text``, an iterator of pieces (tokens,); memory does not grow with the length."""
    scorers = Scorer(model, a), Scorer(model, b)
    drift = Drift(a.name, b.name, 0)
    squares = 0.0
    for piece in text:
        piece = piece[: tokens - drift.tokens]
        if not len(piece):
            break
        one, other = (scorer.read(piece) for scorer in scorers)
        states = [scorer.states() for scorer in scorers]
        drift.tokens += len(piece)
        squares += float(one.var(dim=-1).sum())
        drift.windows.append(_window(drift.tokens, one, other, *states))
        drift.layer_differences = [_relative(x, y) for x, y in zip(*states)]
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


def verdict(drift: Drift, divergence: Divergence | None, rounding: float) -> tuple[bool, str]:
    """(True: only rounding, or False: a fault; in words). rounding: unit roundoff of the coarser side's dtype.

    Rounding of every layer's products and sums perturbs logits by some hundred units of their own scale; it neither grows without
    bound, since the state forgets, nor does it overturn a clear choice.
    """
    allowed = 1000 * rounding * max(drift.logit_scale, 1e-6)
    if not drift.largest <= allowed:  # written so that NaN is a fault
        return False, say(
            f"a fault: logits differ by {drift.largest:.2g}, more than rounding explains ({allowed:.2g})",
            f"存在错误：logits 相差 {drift.largest:.2g}，超出舍入可解释的范围（{allowed:.2g}）",
        )
    if divergence is not None and divergence.position is not None:
        if min(divergence.margin_a, divergence.margin_b) > 2 * max(divergence.logit_difference, drift.largest):
            return False, say(
                f"a fault: at token {divergence.position} a clear choice (margin {divergence.margin_a:.2g}) was overturned",
                f"存在错误：第 {divergence.position} 个词元处明确的选择（差距 {divergence.margin_a:.2g}）被推翻",
            )
        return True, say(
            f"rounding that greedy decoding turned into another text: at token {divergence.position} the two likeliest tokens "
            f"were {divergence.margin_a:.2g} apart, and the sides differ by {divergence.logit_difference:.2g} there",
            f"舍入误差经贪心解码变成了另一段文本：第 {divergence.position} 个词元处最可能的两个词元只差 {divergence.margin_a:.2g}，"
            f"而两侧在此相差 {divergence.logit_difference:.2g}",
        )
    if drift.largest == 0:
        return True, say("identical to the last bit", "逐位完全相同")
    return True, say(
        f"rounding only: logits differ by at most {drift.largest:.2g}, and the texts are the same",
        f"仅有舍入误差：logits 最多相差 {drift.largest:.2g}，文本相同",
    )


def slope(x: list[int], y: list[float]) -> float:
    """Of the least-squares line; 0 for fewer than two points."""
    if len(x) < 2:
        return 0.0
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def pieces_of(ids: Tensor) -> Iterator[Tensor]:
    """A text (tokens,) in pieces."""
    yield from ids.split(PIECE)


def sampled_text(model: LanguageModel, seed: int = 0) -> Iterator[Tensor]:
    """Text that the model itself writes at temperature 1, without end, in pieces: what it is likely to meet in long generations."""
    from anymamba.generation.engine import stream

    start = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    piece: list[int] = []
    for step in stream(model, start, -1, eos=[], temperature=1.0, seed=seed):
        piece.append(int(step.ids[0]))
        if len(piece) == PIECE:
            yield torch.tensor(piece)
            piece = []


def _window(position: int, one: Tensor, other: Tensor, states: list[Tensor], other_states: list[Tensor]) -> Window:
    log_p, log_q = one.log_softmax(-1), other.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    norm = math.sqrt(sum(float(state.square().sum()) for state in states))
    apart = math.sqrt(sum(float((x - y).square().sum()) for x, y in zip(states, other_states)))
    return Window(
        position,
        float((one - other).abs().max()),
        max(float(kl), 0.0),
        int((one.argmax(-1) != other.argmax(-1)).sum()),
        norm,
        apart / max(norm, 1e-30),
    )


def _relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / x.norm().clamp_min(1e-30))
