"""Configuration and weights of a checkpoint in mamba_ssm's format: a folder, or a name on the Hugging Face Hub."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from torch import Tensor

from anymamba.dropin.borrowed import borrowed


def load_config_hf(model_name: str) -> dict[str, Any]:
    """The contents of config.json. Raises FileNotFoundError, or what the download raises."""
    with open(_file(model_name, "config.json"), encoding="utf-8") as file:
        return json.load(file)


def load_state_dict_hf(model_name: str, device: Any = None, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The weights: model.safetensors if there is one, else pytorch_model.bin, read with weights_only=True; never arbitrary pickle."""
    where = "cpu" if dtype not in (torch.float32, None) else device
    try:
        path = _file(model_name, "model.safetensors")
    except (OSError, ValueError):
        state = torch.load(_file(model_name, "pytorch_model.bin"), map_location=where, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(path, device=str(where or "cpu"))
    tied = "backbone.embedding.weight"
    if "lm_head.weight" not in state and tied in state:
        state["lm_head.weight"] = state[tied]
    return {key: value.to(device=device, dtype=dtype) for key, value in state.items()}


def _file(model_name: str, name: str) -> str:
    if os.path.isdir(model_name):
        path = os.path.join(model_name, name)
        if not os.path.isfile(path):
            raise FileNotFoundError(path)
        return path
    from huggingface_hub import hf_hub_download

    return hf_hub_download(model_name, name)


__getattr__ = borrowed(
    __name__,
    "from transformers.utils import CONFIG_NAME, WEIGHTS_NAME"
    "; from transformers.utils.hub import cached_file",
)
