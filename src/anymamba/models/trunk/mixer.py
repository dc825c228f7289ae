"""What every layer of every family is to the trunk: a module with a state. The trunk calls nothing else of it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.state import State

S = TypeVar("S", bound=State)


class Mixer(nn.Module, Generic[S]):
    """(batch, length, d_model) -> (batch, length, d_model); S: the kind of state that it keeps between calls.

    Made as ``mixer(config)``. layer_index: its place in the model, set by the trunk, for errors that name a layer.
    """

    layer_index: int | None = None

    def init_parameters(self) -> None:
        """Fresh values for the parameters that torch's own initialisation leaves wrong or empty; linear layers have theirs already."""
        raise NotImplementedError

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, documents: Documents | None = None, state: S | None = None
    ) -> Tensor:
        """hidden: (batch, length, d_model), normed. mask: (batch, length, 1), 0 at padding, which must change no token's result.
        documents: nothing passes from one to the next. state: continued from and updated in place; not together with documents."""
        raise NotImplementedError

    @classmethod
    def make_state(cls, config: Any, batch: int, device: torch.device | str, dtype: torch.dtype) -> S:
        """The empty state of one layer for so many rows. dtype: the activations'; what sums over tokens stays float32."""
        raise NotImplementedError
