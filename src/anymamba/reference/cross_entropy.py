"""Log-probabilities of a language model's targets, and the slope of their cross-entropy, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.reference import supports as supports
from anymamba.reference.arithmetic import working_dtype


def log_softmax_and_slope(logits: Tensor, targets: Tensor, slope: bool) -> Tensor:
    """logits: (tokens, vocabulary). targets: (tokens,), ids. Returns log softmax(logits)[target] of each row, (tokens,), in
    float32 (float64 for float64). slope: logits are overwritten with softmax(logits) - onehot(target). No gradient passes."""
    dtype = working_dtype(logits)
    chosen = torch.empty(targets.shape, dtype=dtype, device=logits.device)
    with torch.no_grad():
        for token, target in enumerate(targets.tolist()):
            row = logits[token].to(dtype)
            shifted = row - row.max()
            powers = shifted.exp()
            total = powers.sum()
            chosen[token] = shifted[target] - total.log()
            if slope:
                probabilities = powers / total
                probabilities[target] -= 1
                logits[token] = probabilities.to(logits.dtype)
    return chosen
