"""RMS norm of a vector's channels (Zhang and Sennrich 2019) that stands alone, beside no residual stream."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.models.plain import plain_class


@plain_class
class ChannelNorm(nn.Module):
    """(..., size) -> (..., size); sums in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)
