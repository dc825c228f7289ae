"""Log-softmax, the targets' log-probabilities and the slope of the cross-entropy, of as many rows as are given at once."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.backends.torch import supports as supports
from anymamba.backends.torch.precision import wide_dtype


def log_softmax_and_slope(logits: Tensor, targets: Tensor, slope: bool) -> Tensor:
    """See anymamba.ops.log_softmax_and_slope. Beside logits, (tokens, vocabulary), a copy in float32 is held."""
    log_probabilities = torch.log_softmax(logits, dim=-1, dtype=wide_dtype(logits))
    where = targets[:, None].long()
    target_log_probabilities = log_probabilities.gather(1, where)[:, 0]
    if slope:
        probabilities = log_probabilities.exp_()
        logits.copy_(probabilities.scatter_add_(1, where, probabilities.new_full((), -1.0).expand(where.shape)))
    return target_log_probabilities
