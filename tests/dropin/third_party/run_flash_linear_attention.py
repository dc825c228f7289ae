"""The mamba and mamba2 layers of flash-linear-attention (PyPI: flash-linear-attention, fla-core): their path through mamba_ssm.

A layer chooses that path by the name of its device, so it is called by its own name here, and held against the layer's own loop in
torch. The loop's activation and norm are Triton kernels of fla that need a GPU; in the copy that runs the loop torch's stand in.
"""

import copy
import json

import torch
from fla.layers.mamba import Mamba
from fla.layers.mamba2 import Mamba2


class GatedNorm(torch.nn.Module):
    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x * torch.nn.functional.silu(gate), x.shape[-1:], self.weight, self.eps)


torch.manual_seed(0)
layers = {
    "mamba": Mamba(hidden_size=32, state_size=8, intermediate_size=64, layer_idx=0),
    "mamba2": Mamba2(num_heads=8, head_dim=8, hidden_size=32, state_size=16, n_groups=1, chunk_size=8, layer_idx=0),
}
found = {}
for name, layer in layers.items():
    loop = copy.deepcopy(layer)
    loop.act = torch.nn.functional.silu
    if name == "mamba2":
        loop.norm = GatedNorm(loop.norm)
    x = torch.randn(2, 21, 32)
    own = loop.slow_forward if name == "mamba" else loop.torch_forward
    fast, slow = layer.cuda_kernels_forward(x, None, False, None)[0], own(x, None, False, None)[0]
    fast.square().mean().backward()
    slow.square().mean().backward()
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    expected = dict(loop.named_parameters())
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    norm = torch.stack([p.grad.norm() for p in layer.parameters()]).norm()
    found |= {name: fast.norm().item(), f"{name} gradient": norm.item()}
print(json.dumps(found))
