"""The linear layer of every family: torch's, with products that are fast in every dtype on every processor."""

from __future__ import annotations

from torch import Tensor, nn

from anymamba.models.plain import plain_class
from anymamba.ops import projection


@plain_class
class Linear(nn.Linear):
    """``nn.Linear`` in all but speed: parameters, initialisation and dtypes are the same, and fused paths may read its weight, for its
    forward does nothing else. In 16 bits on a processor without such units its products run in float32, see ``ops/projection.py``."""

    def forward(self, input: Tensor) -> Tensor:
        fits = input.dtype == self.weight.dtype or projection.autocast_dtype(input.device) is not None  # else torch's own error
        if fits and projection.in_float32(projection.result_dtype(input), input, self.weight):
            return projection.linear(input, self.weight, self.bias)
        return super().forward(input)
