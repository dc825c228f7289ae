"""MambaVision (PyPI: mambavision), its smallest registered model, 224 x 224 images: one training step and one evaluation."""

import json
import os

import mambavision
import torch

torch.manual_seed(0)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
model = mambavision.create_model("mamba_vision_T", pretrained=False, drop_path_rate=0.0)
images, labels = torch.randn(2, 3, 224, 224), torch.tensor([1, 7])
loss = torch.nn.functional.cross_entropy(model(images), labels)
loss.backward()
norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
missing = [name for name, p in model.named_parameters() if p.grad is None]
with torch.no_grad():
    logits = model.eval()(images)
print(json.dumps({"loss": loss.item(), "gradient": norm.item(), "logits": logits.norm().item(), "without gradient": missing}))
