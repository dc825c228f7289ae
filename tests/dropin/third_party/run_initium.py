"""The backbones of a neural computer (PyPI: initium-deeplearning): stacks of Mamba and Mamba2, and a scan of its own inside a mixer."""

import json

import torch
from initium.mamba_controller.mamba_backbone_parallel import MambaBackboneParallel

torch.manual_seed(0)
found = {}
for name, options in {"mamba1": {}, "mamba2": {"headdim": 16}, "gated": {"sgr_delta_error_gating": True}}.items():
    variant = "mamba2" if name == "mamba2" else "mamba1"
    model = MambaBackboneParallel(16, 64, variant=variant, **options)
    y = model(torch.randn(2, 40, 16))
    (y[..., 0].square().mean() + y[..., 1].mean()).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    found |= {name: y.abs().mean().item(), f"{name} gradient": norm.item()}
print(json.dumps(found))
