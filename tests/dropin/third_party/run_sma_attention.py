"""Attention between queries and keys made by one Mamba (PyPI: sma-attention)."""

import json

import torch
from sma_attention import SymmetricMambaAttention

torch.manual_seed(0)
model = SymmetricMambaAttention(d_model=64, n_heads=4)
first, second = torch.randn(2, 64, 40), torch.randn(2, 64, 40)
loss = model(first, second).square().mean()
loss.backward()
norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
print(json.dumps({"loss": loss.item(), "gradient": norm.item()}))
