"""Which activation of A a Mamba-3 checkpoint was trained with, where its configuration does not say: both are tried on a short text.

The text has three passages, and the one that the model knows best decides: a model of Chinese says nothing reliable about English.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.errors import warn_once
from anymamba.language import _
from anymamba.models.tokenizer import Tokenizer, byte_tokenizer
from anymamba.reference.mamba3_decay import ACTIVATIONS

PASSAGES = (
    "The river rises in the hills to the north, where it rains for most of the year. From there it runs south past three small towns, "
    "and each of them has a bridge, a mill and a market on Saturdays. When the snow melts in spring, the water is high and brown, and the "
    "children are told to stay away from it. In summer they swim in it all day, and nobody asks them where they have been.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)\n\n\n"
    "print(mean([1, 2, 3, 4, 5]))\n",
    "这条河从北边的山里流出来，那里一年中的大部分时间都在下雨。它向南流过三个小镇，每个小镇都有一座桥和一个集市。",
)

LLAMA3_PASSAGES = (
    (791, 15140, 38268, 304, 279, 35231, 311, 279, 10411, 11, 1405, 433, 62555, 369, 1455, 315, 279, 1060, 13, 5659, 1070, 433, 8640, 10007,
     3347, 2380, 2678, 25861, 11, 323, 1855, 315, 1124, 706, 264, 14497, 11, 264, 2606, 323, 264, 3157, 389, 76314, 13, 3277, 279, 12056,
     99191, 304, 10683, 11, 279, 3090, 374, 1579, 323, 14198, 11, 323, 279, 2911, 527, 3309, 311, 4822, 3201, 505, 433, 13, 763, 7474, 814,
     16587, 304, 433, 682, 1938, 11, 323, 19093, 17501, 1124, 1405, 814, 617, 1027, 13),
    (755, 3152, 20706, 997, 262, 2860, 284, 220, 15, 198, 262, 369, 907, 304, 2819, 512, 286, 2860, 1447, 907, 198, 262, 471, 2860, 611,
     2479, 20706, 3707, 1374, 46776, 2625, 16, 11, 220, 17, 11, 220, 18, 11, 220, 19, 11, 220, 20, 11147),
    (44388, 40089, 103232, 46281, 49409, 103377, 9554, 58911, 70349, 89753, 106084, 106169, 70349, 123953, 105363, 27384, 105494, 21082,
     72368, 19000, 17297, 106786, 1811, 103282, 70141, 59563, 89753, 39282, 126524, 31809, 104643, 116255, 19483, 31809, 104643, 72368,
     108830, 103605, 113336, 34208, 48044, 43167, 23530, 1811),
)  # fmt: skip
"""The same in the tokens of Llama 3, which state-spaces/mamba3-* were trained with: their folders have no tokenizer to ask."""

LLAMA3_TOKENS = range(128256, 128513)
"""Vocabularies that can be Llama 3's: its 128,256 tokens, and what padding makes of them."""


Logits = Callable[[Tensor, str], Tensor]
"""(ids (1, length), activation) -> logits (1, length, vocabulary) of the model computed with that activation."""


def decide(logits: Logits, vocabulary: int, device: torch.device, tokenizer: Tokenizer | None, presumed: str) -> str:
    """The activation with the lower loss, which one line on stderr tells.

    vocabulary: of the model, whose tensors are on device. presumed: what to take where there is no way to try. Warns where that is so,
    and where both losses are above that of a uniform guess: then the model reads none of the passages, and the choice means little."""
    passages = _passages(tokenizer, vocabulary)
    if not passages:
        warn_once(
            f"activation of A presumed: {presumed}",
            _(
                "this Mamba-3 checkpoint does not say which activation of A it was trained with, and without its "
                "tokenizer neither can be tried: {presumed} is presumed; name the tokenizer (--tokenizer), or the "
                "activation (--a-activation)"
            ).format(presumed=presumed),
        )
        return presumed
    losses = {name: [_loss(logits, ids, device, name) for ids in passages] for name in ACTIVATIONS}
    best = min(range(len(passages)), key=lambda i: min(losses[name][i] for name in ACTIVATIONS))
    name, other = sorted(ACTIVATIONS, key=lambda name: losses[name][best])
    loss, other_loss, uniform = losses[name][best], losses[other][best], math.log(vocabulary)
    if loss > uniform:
        warn_once(
            f"activation of A implausible: {loss} {other_loss}",
            _(
                "this Mamba-3 checkpoint does not say which activation of A it was trained with, and with neither it "
                "reads a short text better than a uniform guess ({uniform:.2f} nats a token): {name} {loss:.2f}, "
                "{other} {other_loss:.2f}; {name} is taken, --a-activation overrides; was the model trained, and is "
                "the tokenizer its own?"
            ).format(uniform=uniform, name=name, loss=loss, other=other, other_loss=other_loss),
        )
        return name
    text = _(
        "activation of A: {name}, tried because this Mamba-3 checkpoint does not say (loss on a short text "
        "{loss:.3f}, with {other} {other_loss:.3f}); --a-activation overrides"
    ).format(name=name, loss=loss, other=other, other_loss=other_loss)
    print(text, file=sys.stderr, flush=True)
    return name


def _passages(tokenizer: Tokenizer | None, vocabulary: int) -> list[Sequence[int]]:
    """The ids of each passage of which the model has every token and at least two; empty if there is nobody to ask for them."""
    passages: list[Sequence[int]] = []
    if tokenizer is not None:
        passages = [tokenizer.encode(text) for text in PASSAGES]
    elif vocabulary in LLAMA3_TOKENS:
        passages = list(LLAMA3_PASSAGES)
    elif vocabulary - byte_tokenizer().vocab_size in range(16):
        passages = [byte_tokenizer().encode(text) for text in PASSAGES]
    return [ids for ids in passages if len(ids) > 1 and max(ids) < vocabulary]


@torch.no_grad()
def _loss(logits: Logits, ids: Sequence[int], device: torch.device, activation: str) -> float:
    """Nats a token; infinite where the model does not even give numbers."""
    row = torch.tensor([ids], device=device)
    loss = F.cross_entropy(logits(row[:, :-1], activation)[0].float(), row[0, 1:]).item()
    return loss if math.isfinite(loss) else math.inf
