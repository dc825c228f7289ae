"""The linear recurrence x_t = decay_t * x_{t-1} + input_t over a chunk, in place: one fused multiply-add a time step.

No exponential of a positive sum and no division by a product of decays: nothing here can overflow or lose digits when
decays underflow to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_recurrence_(
    x: Tensor, decay: Tensor, initial: Tensor, reverse: bool = False, segment: int = 0, borders: Tensor | None = None
) -> None:
    """x: (length, ...) inputs on entry, states on return. decay: (length, ...), what multiplies the state that arrives at
    a step. initial: (...), the state that arrives at the first step. reverse: run from the last step to the first.

    segment: 0 takes the steps one after another, the least work. Otherwise all segments of this many steps advance
    together from zero and then receive the state of the segment before them: about 2 * sqrt(length) kernel launches
    instead of length, for twice the arithmetic; for devices on which a launch costs more than a step.

    borders: (length, 1, ...), true at the steps at which no state arrives, whatever it is: zero times infinity is not zero.
    """
    whole = len(x) // segment * segment if segment else 0
    if whole < 2 * segment or not segment:
        _step_by_step_(x, decay, initial, reverse, borders)
        return
    together, rest = slice(0, whole), slice(whole, len(x))
    if reverse:
        rest, together = slice(0, len(x) - whole), slice(len(x) - whole, len(x))
    in_both = (None, None) if borders is None else (borders[together], borders[rest])
    _by_segments_(x[together], decay[together], initial, segment, reverse, in_both[0])
    _step_by_step_(x[rest], decay[rest], x[rest.stop if reverse else whole - 1], reverse, in_both[1])


def _arriving(state: Tensor, border: Tensor | None) -> Tensor:
    return state if border is None else state.masked_fill(border, 0)


def _step_by_step_(x: Tensor, decay: Tensor, initial: Tensor, reverse: bool, borders: Tensor | None) -> None:
    steps = list(zip(x.unbind(0), decay.unbind(0), [None] * len(x) if borders is None else borders.unbind(0)))
    state = initial
    for step, multiplier, border in reversed(steps) if reverse else steps:
        state = step.addcmul_(multiplier, _arriving(state, border))


def _by_segments_(x: Tensor, decay: Tensor, initial: Tensor, segment: int, reverse: bool, borders: Tensor | None) -> None:
    states = x.unflatten(0, (-1, segment))
    decays = decay.unflatten(0, (-1, segment))
    products = decays.clone()  # decay from the start of the segment to this step, a product of factors: exact at zero
    order = list(range(segment))[:: -1 if reverse else 1]
    cut = None if borders is None else borders.unflatten(0, (-1, segment))
    crossed = None if cut is None else cut.clone()  # is there a border from the start of the segment to this step
    for before, now in zip(order, order[1:]):
        states[:, now].addcmul_(decays[:, now], _arriving(states[:, before], None if cut is None else cut[:, now]))
        products[:, now].mul_(products[:, before])
        if crossed is not None:
            crossed[:, now].logical_or_(crossed[:, before])
    arriving = torch.empty_like(states[:, 0])
    state = initial
    for index in list(range(len(states)))[:: -1 if reverse else 1]:
        arriving[index] = state
        border = None if crossed is None else crossed[index, order[-1]]
        state = torch.addcmul(states[index, order[-1]], products[index, order[-1]], _arriving(state, border))
    states.addcmul_(products, _arriving(arriving.unsqueeze(1), crossed))
