"""A bidirectional Mamba-2 encoder (PyPI: bidirectional-mamba) on a padded batch."""

import json

import torch
from bidirectional_mamba import BiMambaStack

torch.manual_seed(0)
model = BiMambaStack(64, n_layers=2, d_state=32, headdim=32)
x, valid = torch.randn(2, 60, 64), torch.ones(2, 60, dtype=torch.bool)
valid[1, 45:] = False
y = model(x, valid_mask=valid)
alone = model(x[1:, :45])
loss = y[valid].square().mean() + y[0, :, 0].sum()
loss.backward()
norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
print(json.dumps({"loss": loss.item(), "gradient": norm.item(), "padding changes": (y[1:, :45] - alone).abs().max().item() > 1e-4}))
