"""Recombination maps (PyPI: fastrho): its bidirectional block of two Mamba2."""

import json

import torch
from fastrho.modules import BiMambaBlock

torch.manual_seed(0)
model = BiMambaBlock(64, d_state=32, dropout=0.0)
loss = model(torch.randn(2, 50, 64)).square().mean()
loss.backward()
norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
print(json.dumps({"loss": loss.item(), "gradient": norm.item()}))
