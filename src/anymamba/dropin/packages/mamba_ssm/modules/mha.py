"""Attention of hybrid models, with torch's scaled dot product attention: no flash_attn needed, rotary embedding included."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.dropin.borrowed import borrowed

from .convolution import causal_conv1d_fn, causal_conv1d_update
from .modules_as_weights import called


class RotaryEmbedding(nn.Module):
    """Turns the first dim channels of each head by an angle that grows with the position. Source: Su et al., 2021."""

    inv_freq: Tensor

    def __init__(self, dim: int, base: float = 10000.0, interleaved: bool = False, device: Any = None) -> None:
        super().__init__()
        self.dim, self.interleaved = dim, interleaved
        powers = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
        self.register_buffer("inv_freq", base**-powers, persistent=False)

    def forward(self, x: Tensor, offset: int | Tensor = 0) -> Tensor:
        """x: (batch, length, heads, headdim); offset: tokens seen before, one number or (batch,). interleaved: channels 2i and 2i + 1
        form a pair, otherwise i and i + dim / 2."""
        positions = torch.arange(x.shape[1], device=x.device) + (offset[:, None] if isinstance(offset, Tensor) else offset)
        angles = positions.reshape(-1, x.shape[1], 1, 1) * self.inv_freq
        cos, sin = angles.cos(), angles.sin()
        turned, rest = x.float().split([self.dim, x.shape[-1] - self.dim], dim=-1)
        a, b = (turned[..., 0::2], turned[..., 1::2]) if self.interleaved else turned.chunk(2, dim=-1)
        pair = (a * cos - b * sin, a * sin + b * cos)
        turned = torch.stack(pair, dim=-1).flatten(-2) if self.interleaved else torch.cat(pair, dim=-1)
        return torch.cat([turned, rest], dim=-1).to(x.dtype)


class MHA(nn.Module):
    """Self-attention on (batch, length, embed_dim), with grouped heads, an optional short convolution and an MLP beside it.

    Parameters: in_proj (rows q, k, v, MLP), conv1d if d_conv > 0, out_proj. mlp_dim is rounded up to a multiple of 256.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_heads_kv: int | None = None,
        head_dim: int | None = None,
        mlp_dim: int = 0,
        qkv_proj_bias: bool = True,
        out_proj_bias: bool = True,
        softmax_scale: float | None = None,
        causal: bool = False,
        layer_idx: int | None = None,
        d_conv: int = 0,
        rotary_emb_dim: int = 0,
        rotary_emb_base: float = 10000.0,
        rotary_emb_interleaved: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim, self.layer_idx, self.d_conv = embed_dim, layer_idx, d_conv
        self.rotary_emb_dim, self.softmax_scale, self.causal = rotary_emb_dim, softmax_scale, causal
        self.num_heads = num_heads
        self.num_heads_kv = num_heads if num_heads_kv is None else num_heads_kv
        assert num_heads % self.num_heads_kv == 0, "num_heads_kv must divide num_heads"
        assert head_dim is not None or embed_dim % num_heads == 0, "num_heads must divide embed_dim"
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.mlp_dim = math.ceil(mlp_dim / 256) * 256
        qkv_dim = self.head_dim * (num_heads + 2 * self.num_heads_kv)
        factory_kwargs: dict[str, Any] = {"device": device, "dtype": dtype}
        if rotary_emb_dim > 0:
            self.rotary_emb = RotaryEmbedding(rotary_emb_dim, rotary_emb_base, rotary_emb_interleaved, device)
        self.in_proj = nn.Linear(embed_dim, qkv_dim + self.mlp_dim, bias=qkv_proj_bias, **factory_kwargs)
        if d_conv > 0:
            self.conv1d = nn.Conv1d(qkv_dim, qkv_dim, d_conv, padding=d_conv - 1, groups=qkv_dim, **factory_kwargs)
        self.out_proj = nn.Linear(self.head_dim * num_heads + self.mlp_dim // 2, embed_dim, bias=out_proj_bias, **factory_kwargs)

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Keys and values (batch, max_seqlen, 2, num_heads_kv, head_dim); the convolution's state (batch, qkv_dim, d_conv) or None."""
        weight = self.out_proj.weight
        dtype = dtype or weight.dtype
        conv_state = None
        if self.d_conv > 0:
            conv_state = torch.zeros(batch_size, self.conv1d.weight.shape[0], self.d_conv, device=weight.device, dtype=dtype)
        shape = (batch_size, max_seqlen, 2, self.num_heads_kv, self.head_dim)
        return torch.zeros(shape, device=weight.device, dtype=dtype), conv_state

    def forward(self, x: Tensor, inference_params: Any = None) -> Tensor:
        """inference_params: with seqlen_offset > 0 one token after those in the cache, else a prompt that fills it."""
        if inference_params is None:
            kv_cache, conv_state, offset = None, None, 0
        else:
            cache = inference_params.key_value_memory_dict
            if self.layer_idx not in cache:
                cache[self.layer_idx] = self.allocate_inference_cache(x.shape[0], inference_params.max_seqlen, x.dtype)
            (kv_cache, conv_state), offset = cache[self.layer_idx], inference_params.seqlen_offset
        both = called(self.in_proj, x)
        qkv, mlp = both.split([both.shape[-1] - self.mlp_dim, self.mlp_dim], dim=-1)
        if self.d_conv > 0:
            qkv = self._convolved(qkv, conv_state, offset)
        q, kv = qkv.split([self.num_heads * self.head_dim, 2 * self.num_heads_kv * self.head_dim], dim=-1)
        q = q.unflatten(-1, (self.num_heads, self.head_dim))
        k, v = kv.unflatten(-1, (2, self.num_heads_kv, self.head_dim)).unbind(dim=-3)
        if self.rotary_emb_dim > 0:
            q, k = self.rotary_emb(q, offset), self.rotary_emb(k, offset)
        if kv_cache is not None:
            rows = slice(inference_params.batch_size_offset, inference_params.batch_size_offset + x.shape[0])
            kv_cache[rows, offset : offset + x.shape[1]] = torch.stack([k, v], dim=2)
            k, v = kv_cache[rows, : offset + x.shape[1]].unbind(dim=2)
        repeats = self.num_heads // self.num_heads_kv
        k, v = (M.repeat_interleave(repeats, dim=2) for M in (k, v))
        # one token sees all of the cache; the mask that torch makes is aligned with the first key
        causal = self.causal and offset == 0
        context = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal, scale=self.softmax_scale
        )
        y = context.transpose(1, 2).flatten(2)
        if self.mlp_dim > 0:
            up, gate = mlp.chunk(2, dim=-1)
            y = torch.cat([y, up * F.silu(gate)], dim=-1)
        return called(self.out_proj, y)

    def _convolved(self, qkv: Tensor, conv_state: Tensor | None, offset: int) -> Tensor:
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        if conv_state is not None and offset > 0:
            assert qkv.shape[1] == 1, "decoding takes one token at a time"
            return causal_conv1d_update(qkv[:, 0], conv_state, weight, bias)[:, None]
        if conv_state is not None:
            conv_state.copy_(F.pad(qkv.mT, (self.d_conv - qkv.shape[1], 0)))
        return causal_conv1d_fn(qkv.mT, weight, bias).mT


__getattr__ = borrowed(__name__, "from einops import rearrange; from flash_attn import flash_attn_with_kvcache")
