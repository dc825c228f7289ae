"""Small GGUF files for tests, written by the package gguf itself: what ours reads is what others wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anymamba.models.config import Config
from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.gguf import architectures
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config

gguf: Any = pytest.importorskip("gguf")

CONFIGS: dict[str, Config] = {
    "mamba": MambaConfig(vocab_size=96, hidden_size=64, num_hidden_layers=2),
    "mamba2": Mamba2Config(vocab_size=96, hidden_size=64, num_hidden_layers=2, num_heads=8, head_dim=16, state_size=16, n_groups=2),
    "falcon_mamba": FalconMambaConfig(vocab_size=96, hidden_size=64, num_hidden_layers=2, tie_word_embeddings=False, mixer_rms_eps=1e-5),
}


def model_of(family: str, config: Config | None = None) -> LanguageModel:
    """Random weights, large enough for logits that differ."""
    torch.manual_seed(0)
    model = LanguageModel(config or CONFIGS[family]).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "A_log" not in name:
            parameter.mul_(3)
    return model


def write(model: LanguageModel, path: Path, kind: str, metadata: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """The file, its matrices in that type; returns the values that it holds, by our names, as gguf itself unpacks them."""
    architecture, numbers = architectures.metadata_of(model.config)
    writer = gguf.GGUFWriter(path, architecture)
    entries = {f"{architecture}.{key}": value for key, value in numbers.items()} | (metadata or {"tokenizer.ggml.model": "none"})
    for key, value in entries.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
        add[type(value)](key, value)
    held = {}
    for name, place in architectures.places(model.config).items():
        tensor = dict(model.named_parameters(remove_duplicate=False))[name].detach()
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = place.write(tensor).float().contiguous().numpy()
        packs = name.endswith(("_proj.weight", "lm_head.weight", "embeddings.weight"))
        if packs and kind != "F32" and values.shape[-1] % block_size(kind) == 0:
            number = gguf.GGMLQuantizationType[kind]
            raw = packed(values, kind)
            writer.add_tensor(place.name, raw, raw_dtype=number)
            values = gguf.quants.dequantize(raw, number)
        else:
            writer.add_tensor(place.name, values)
        held[name] = place.read(torch.from_numpy(values.copy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def block_size(kind: str) -> int:
    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0])


def packed(values: Any, kind: str) -> Any:
    """In that type; of those that gguf only unpacks, blocks of random bytes with small scales."""
    number = gguf.GGMLQuantizationType[kind]
    try:
        return gguf.quants.quantize(values, number)
    except NotImplementedError:
        size, bytes_ = gguf.GGML_QUANT_SIZES[number]
        raw = torch.randint(0, 256, (values.shape[0], values.shape[1] // size, bytes_), dtype=torch.uint8)
        # the scales, float16, lie at the end of a block of Q3_K and Q6_K and of Q2_K, and else at its beginning
        halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(kind, (0, 2))
        for place in halves:
            raw[..., place : place + 2] = torch.tensor([0.01], dtype=torch.float16).view(torch.uint8)
        return raw.flatten(1).numpy()
