"""A user's script: PEFT on transformers' models, with nothing of anymamba in it. ``anymamba run -m tests.dropin.peft_script``."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import torch

from tests.dropin.tiny_transformers import CONFIGS

IDS = torch.randint(2, 60, (2, 11), generator=torch.Generator().manual_seed(0))
TARGETS = {"mamba": "in_proj,x_proj,dt_proj,out_proj", "falcon_mamba": "in_proj,x_proj,dt_proj,out_proj", "mamba2": "in_proj,out_proj",
           "nemotron_h": "in_proj,out_proj", "bamba": "in_proj,out_proj", "falcon_h1": "in_proj,out_proj"}  # fmt: skip


def trained(model: Any) -> tuple[Any, dict[str, Any]]:
    """Logits, loss and the gradient of every adapter."""
    model.zero_grad(set_to_none=True)
    output = model(input_ids=IDS, labels=IDS, use_cache=False)
    output.loss.backward()
    return output.logits.detach(), {name: p.grad for name, p in model.named_parameters() if "lora_" in name}


def dense(model: Any, tuned: Any) -> Any:
    """The base with W + s B A in float64, computed by hand."""
    model = copy.deepcopy(model).double()
    for name, layer in tuned.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            model.get_submodule(name).weight.data += layer.scaling["default"] * B.detach().double() @ A.detach().double()
    return model


def main(families: str) -> None:
    import peft
    import transformers

    found = {}
    for family in families.split(","):
        name, sizes = CONFIGS[family]
        torch.manual_seed(0)
        base = getattr(transformers, name + "ForCausalLM")(getattr(transformers, name + "Config")(**sizes)).eval()
        config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS[family].split(","), init_lora_weights=False)
        tuned = peft.get_peft_model(copy.deepcopy(base), config).eval()
        logits, gradients = trained(tuned)
        wanted = dense(base, tuned)
        expected = wanted(input_ids=IDS, use_cache=False).logits.detach()
        # along one direction, the change of the dense model's loss is what the gradients say
        fixed = torch.Generator().manual_seed(1)
        step = {n: torch.randn(p.shape, generator=fixed) for n, p in tuned.named_parameters() if n in gradients}
        said = sum(float((gradients[n] * step[n]).sum()) for n in gradients)
        losses = []
        for sign in (1, -1):
            moved = copy.deepcopy(tuned)
            for n, p in moved.named_parameters():
                if n in step:
                    p.data += sign * 1e-4 * step[n]
            with torch.no_grad():
                losses.append(float(dense(base, moved)(input_ids=IDS, labels=IDS, use_cache=False).loss))
        measured = (losses[0] - losses[1]) / 2e-4
        with torch.no_grad():
            written = tuned.generate(input_ids=IDS[:1, :5], max_new_tokens=4, min_new_tokens=4, do_sample=False)
            asked = wanted.generate(input_ids=IDS[:1, :5], max_new_tokens=4, min_new_tokens=4, do_sample=False)
            tuned.merge_adapter()
            merged = tuned(input_ids=IDS, use_cache=False).logits
            tuned.unmerge_adapter()
            unmerged = tuned(input_ids=IDS, use_cache=False).logits
        size = float(expected.norm())
        found[family] = {
            "without_gradient": [n for n, g in gradients.items() if g is None or float(g.abs().max()) == 0],
            "adapters": sorted({n.split(".lora_")[0].rsplit(".", 1)[-1] for n in gradients}),
            "logits": float((logits - expected).norm()) / size,
            "merged": float((merged - expected).norm()) / size,
            "unmerged": float((unmerged - expected).norm()) / size,
            "slope": abs(said - measured) / abs(measured),
            "same_text": torch.equal(written, asked),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
