"""Super-resolution of satellite images (PyPI: opensr-mamba) with the trained weights that the package ships.

Its own load_models() calls .cuda(); the same model with the same weights is made here on the CPU. Four scans in four directions are
the groups of one selective_scan_fn.
"""

import importlib.resources
import json

import torch
from opensr_mamba.mamba.main import MambaSR

torch.manual_seed(0)
model = MambaSR(
    img_size=16, in_chans=3, embed_dim=60, depths=[2, 2, 2, 2], d_state=16, mlp_ratio=1.5, upscale=4, attention_type="sigmoid_02",
    upsampler="pixelshuffledirect", resi_connection="1conv", operation_attention="sum", drop_path_rate=0.0,
)  # fmt: skip
weights = importlib.resources.files("opensr_mamba.mamba.weights") / "srmodel.pth"
model.load_state_dict(torch.load(str(weights), map_location="cpu", weights_only=True))
images = torch.rand(1, 3, 16, 16)
output, _ = model(images, save_attention_maps=True)  # as its own predict() does
loss = (output - torch.nn.functional.interpolate(images, scale_factor=4)).square().mean()
loss.backward()
norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
print(json.dumps({"loss": loss.item(), "gradient": norm.item(), "shape": list(output.shape)}))
