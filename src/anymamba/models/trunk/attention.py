"""Causal attention with grouped heads (Vaswani et al. 2017; Ainslie et al. 2023, "GQA") and, where asked, rotary positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.models.plain import plain_class
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.key_values import KeyValues
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.rotary import Rotary
from anymamba.models.trunk.submodule import call, needs_gradient


@dataclass(frozen=True)
class AttentionSizes:
    """size: channels that come in; out: that go out. scale: of the products of queries and keys; key_scale: of the keys alone."""

    size: int
    out: int
    heads: int
    kv_heads: int
    headdim: int
    scale: float
    bias: bool = False
    key_scale: float = 1.0
    rotary: Rotary | None = None


@plain_class
class Attention(Mixer[KeyValues]):
    """A family derives from it and says its sizes. q_proj, k_proj, v_proj, o_proj as transformers has them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        sizes = self.sizes = self.sizes_of(config)
        self.q_proj = Linear(sizes.size, sizes.heads * sizes.headdim, bias=sizes.bias)
        self.k_proj = Linear(sizes.size, sizes.kv_heads * sizes.headdim, bias=sizes.bias)
        self.v_proj = Linear(sizes.size, sizes.kv_heads * sizes.headdim, bias=sizes.bias)
        self.o_proj = Linear(sizes.heads * sizes.headdim, sizes.out, bias=sizes.bias)

    @classmethod
    def sizes_of(cls, config: Any) -> AttentionSizes:
        raise NotImplementedError

    def init_parameters(self) -> None:
        """torch's own values do."""

    @classmethod
    def make_state(cls, config: Any, batch: int, device: torch.device | str, dtype: torch.dtype) -> KeyValues:
        """See Mixer.make_state."""
        sizes = cls.sizes_of(config)
        return KeyValues.empty(batch, sizes.kv_heads, sizes.headdim, device, dtype)

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, documents: Documents | None = None, state: KeyValues | None = None
    ) -> Tensor:
        """See Mixer.forward. With a state, padding stands on the left of the first piece only (``trunk/padding.py``)."""
        sizes = self.sizes
        query = self._heads("q_proj", hidden, sizes.heads)
        key = self._heads("k_proj", hidden, sizes.kv_heads)
        value = self._heads("v_proj", hidden, sizes.kv_heads)
        if sizes.key_scale != 1.0:
            key = key * sizes.key_scale
        length, past = hidden.shape[1], 0 if state is None else state.length
        if state is not None and mask is not None and past == 0:
            state.padding.copy_(length - mask.sum((1, 2)).round().long())
            state.padded = bool(state.padding.any())
        padding = state.padding if state is not None and state.padded else None
        if sizes.rotary is not None:
            turns = _turns(sizes.rotary, past, length, padding, hidden.device)
            query, key = sizes.rotary.apply(query, turns), sizes.rotary.apply(key, turns)
        if state is not None:
            before = key, value
            if needs_gradient(self, hidden):  # the buffers keep numbers; gradients go through this call's own keys and values
                old = [tensor[:, :, :past].clone() for tensor in (state.keys, state.values)]
                state.extend(key.detach(), value.detach())
                key, value = (torch.cat([was.to(new.dtype), new], 2) for was, new in zip(old, before))
            else:
                key, value = state.extend(key, value)
        if query.dtype != key.dtype:
            key, value = key.to(query.dtype), value.to(query.dtype)
        y = attend(query, key, value, sizes.scale, _allowed(length, past, mask, documents, padding, hidden.device))
        return call(self, "o_proj", y.transpose(1, 2).flatten(-2), sizes.out)

    def _heads(self, name: str, hidden: Tensor, heads: int) -> Tensor:
        """(batch, length, size) -> (batch, heads, length, headdim)"""
        headdim = self.sizes.headdim
        return call(self, name, hidden, heads * headdim).unflatten(-1, (heads, headdim)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, allowed: Tensor | None) -> Tensor:
    """query: (batch, heads, length, headdim); key, value: (batch, kv_heads, tokens, headdim), the last ``length`` of them at the queries'
    own places. allowed: bool (batch or 1, 1, length, tokens); None: everything before a token and the token itself."""
    batch, heads, length, headdim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    if length == 1:  # the heads of a group are as so many queries of one head: nothing is repeated
        rows = query.view(batch, kv_heads, group, headdim) if group > 1 else query
        y = F.scaled_dot_product_attention(rows, key, value, attn_mask=allowed, scale=scale)
        return y.reshape(batch, heads, 1, headdim)
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    causal = allowed is None and key.shape[2] == length
    if allowed is None and not causal:
        allowed = _allowed(length, key.shape[2] - length, None, None, None, query.device, whole=True)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, is_causal=causal, scale=scale)


def _turns(rotary: Rotary, past: int, length: int, padding: Tensor | None, device: torch.device) -> Tensor:
    """Positions count from a row's first token, so that rows may be moved against each other."""
    if padding is None:
        return rotary.turns(past, length, device)
    table = rotary.turns(0, past + length, device)
    places = torch.arange(past, past + length, device=device) - padding[:, None]
    return table[:, places.clamp_min(0)].unsqueeze(2)


def _allowed(
    length: int,
    past: int,
    mask: Tensor | None,
    documents: Documents | None,
    padding: Tensor | None,
    device: torch.device,
    whole: bool = False,
) -> Tensor | None:
    """What each token may look at: bool (batch or 1, 1, length, past + length), or None where nothing but the order forbids."""
    if mask is None and documents is None and padding is None and not whole:
        return None
    places = torch.arange(past + length, device=device)
    own = places[past:]
    allowed = (places <= own[:, None])[None, None]
    if documents is not None:
        number = documents.starts.cumsum(1)
        allowed = allowed & (number[:, None, :, None] == number[:, None, None, :])
    if padding is not None:
        allowed = allowed & (places >= padding[:, None])[:, None, None, :]
    elif mask is not None:
        allowed = allowed & (mask != 0).transpose(1, 2)[:, None]
    # padding looks at itself: nothing reads what comes of it, but a row without anything would be not a number
    return allowed | (places == own[:, None])
