"""Activations by the names that configurations have for them."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from anymamba.errors import UnsupportedError
from anymamba.language import _

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


def activation(name: str, key: str) -> Callable[[Tensor], Tensor]:
    """The function of that name. key: of the configuration, for the UnsupportedError of a name that is not known."""
    if name not in ACTIVATIONS:
        raise UnsupportedError(
            "config",
            _("{key} {name!r} is not supported").format(key=key, name=name),
            fix=_("known: ") + ", ".join(ACTIVATIONS),
        )
    return ACTIVATIONS[name]
