"""The linear recurrence x_t = decay_t * x_{t-1} + input_t over a chunk, in place: one fused multiply-add a time step.

No exponential of a positive sum and no division by a product of decays: nothing here can overflow or lose digits when
decays underflow to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_recurrence_(x: Tensor, decay: Tensor, initial: Tensor, reverse: bool = False, segment: int = 0) -> None:
    """x: (length, ...) inputs on entry, states on return. decay: (length, ...), what multiplies the state that arrives at
    a step. initial: (...), the state that arrives at the first step. reverse: run from the last step to the first.

    segment: 0 takes the steps one after another, the least work. Otherwise all segments of this many steps advance
    together from zero and then receive the state of the segment before them: about 2 * sqrt(length) kernel launches
    instead of length, for twice the arithmetic; for devices on which a launch costs more than a step.
    """
    whole = len(x) // segment * segment if segment else 0
    if whole < 2 * segment or not segment:
        _step_by_step_(x, decay, initial, reverse)
    elif reverse:
        rest = len(x) - whole
        _by_segments_(x[rest:], decay[rest:], initial, segment, reverse)
        _step_by_step_(x[:rest], decay[:rest], x[rest], reverse)
    else:
        _by_segments_(x[:whole], decay[:whole], initial, segment, reverse)
        _step_by_step_(x[whole:], decay[whole:], x[whole - 1], reverse)


def _step_by_step_(x: Tensor, decay: Tensor, initial: Tensor, reverse: bool) -> None:
    steps = list(zip(x.unbind(0), decay.unbind(0)))
    state = initial
    for step, multiplier in reversed(steps) if reverse else steps:
        state = step.addcmul_(multiplier, state)


def _by_segments_(x: Tensor, decay: Tensor, initial: Tensor, segment: int, reverse: bool) -> None:
    states = x.unflatten(0, (-1, segment))
    decays = decay.unflatten(0, (-1, segment))
    products = decays.clone()  # decay from the start of the segment to this step, a product of factors: exact at zero
    order = list(range(segment))[:: -1 if reverse else 1]
    for before, now in zip(order, order[1:]):
        states[:, now].addcmul_(decays[:, now], states[:, before])
        products[:, now].mul_(products[:, before])
    arriving = torch.empty_like(states[:, 0])
    state = initial
    for index in list(range(len(states)))[:: -1 if reverse else 1]:
        arriving[index] = state
        state = torch.addcmul(states[index, order[-1]], products[index, order[-1]], state)
    states.addcmul_(products, arriving.unsqueeze(1))
