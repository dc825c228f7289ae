"""Adapters in PEFT's format: a folder with adapter_config.json and adapter_model.safetensors, written and read without PEFT.

A folder of ours has base_config.json too, by which another base is told from the right one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models import hub, lora
from anymamba.models.config import Config
from anymamba.models.families import family_of
from anymamba.models.hub import files
from anymamba.models.hub.adapter_options import refuse_unsupported
from anymamba.models.hub.names import TensorNames
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.lora import Adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude"}
"""The end of a tensor's name -> which part of an adapter it is."""

BASE = "base_config.json"
"""Beside them, from us: the fields of the base's configuration. In PEFT's own file they would make it warn."""

UNIMPORTANT = frozenset(("dtype", "torch_dtype", "transformers_version", "architectures", "use_cache", "vocab_size"))
"""Fields of a configuration that may differ between bases of one adapter; ``*_token_id`` too."""


@dataclass(frozen=True)
class SavedAdapter:
    """What a folder holds. config: of adapter_config.json. tensors: by layer (its name in our model) and part. base: fields of the base's
    configuration, None where another program wrote the folder."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    base: dict[str, Any] | None

    @property
    def base_name(self) -> str:
        """Where the base was when the adapter was trained: a folder or a hub name; may be empty."""
        return str(self.config.get("base_model_name_or_path") or "")


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> Path:
    """The folder of the base model that an adapter names. Raises AnymambaError where it is not there."""
    settings = files.read_json(folder / CONFIG)
    name = str(settings.get("base_model_name_or_path") or "") if isinstance(settings, dict) else ""
    try:
        if name:
            return hub.find(name)
        why = _("adapter_config.json names none")
    except AnymambaError as error:
        why = str(error)
    raise AnymambaError(
        "adapter",
        _("{folder} is an adapter, and its base model is not there").format(folder=folder),
        why=why,
        fix=_("name the base and the adapter: MODEL --adapter {folder}").format(folder=folder),
    )


def write(model: LanguageModel, folder: Path, base_name: str, name: str = "default", tensors: Mapping[str, Tensor] | None = None) -> None:
    """The two files of the adapter of that name, into an existing folder. base_name: where the base can be found.

    tensors: the parameters by name, where the model's own are spread over processes.
    """
    names = TensorNames(family_of(model.config), model.config)
    adapters = lora.adapters_of(model, name)
    content: dict[str, Tensor] = {}
    for path, adapter in adapters.items():
        for ending, part in list(PARTS.items())[:3]:
            key = f"{path}.adapters.{name}.{part}"
            tensor = getattr(adapter, part) if tensors is None else tensors.get(key)
            if tensor is not None:
                content[PREFIX + names.saved(f"{path}.weight").removesuffix("weight") + ending] = tensor.detach().cpu().contiguous()
    save_file(content, folder / WEIGHTS, {"format": "pt"})
    files.write_json(folder / BASE, described(model.config))
    files.write_json(folder / CONFIG, _config(adapters, names, base_name))


def _config(adapters: Mapping[str, Adapter], names: TensorNames, base_name: str) -> dict[str, Any]:
    """What PEFT's LoraConfig holds. Adapters of one model have one rank and scaling here, unless they were read from elsewhere."""
    ranks = {path: one.rank for path, one in adapters.items()}
    alphas = {path: one.scaling * one.rank for path, one in adapters.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    saved = {path: names.saved(f"{path}.weight").removesuffix(".weight") for path in adapters}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": next(iter(adapters.values())).dropout.p,
        "target_modules": lora.leaves(list(saved.values())),
        "rank_pattern": {saved[path]: value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {saved[path]: _whole(value) for path, value in alphas.items() if value != alpha},
        "use_dora": any(one.magnitude is not None for one in adapters.values()),
        "use_rslora": False,
        "fan_in_fan_out": False,
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
        "revision": None,
    }


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def described(config: Config) -> dict[str, Any]:
    """The fields that a base must share with the one that an adapter was trained on."""
    values = json.loads(json.dumps(config.to_dict()))
    return {name: value for name, value in values.items() if name not in UNIMPORTANT and not name.endswith("_token_id")}


def read(folder: Path, config: Config) -> SavedAdapter:
    """The adapter in the folder, checked against the configuration of a base; no weight of the base is needed.

    Raises AnymambaError for a missing file, options of PEFT that are not supported (named), and for an adapter of another base: other
    fields, names or shapes.
    """
    saved = _read(folder, config)
    if saved.base is not None:
        own = described(config)
        different = [f"{name}: {saved.base.get(name)!r}, {own.get(name)!r}" for name in sorted({*saved.base, *own})
                     if saved.base.get(name) != own.get(name)]  # fmt: skip
        if different:
            raise _other_base(folder, saved, "; ".join(different[:5]))
    layers = lora.linear_layers(config)
    with torch.device("meta"):
        model = LanguageModel(config)
    for path, parts in saved.tensors.items():
        if path not in layers:
            raise _other_base(folder, saved, _("there is no linear layer {name}; there are: ").format(name=path) + ", ".join(
                lora.leaves(list(layers))))  # fmt: skip
        reason = _misshaped(model.get_submodule(path).weight.shape, parts)  # type: ignore[union-attr, arg-type]
        if reason:
            raise _other_base(folder, saved, f"{path}: {reason}")
    return saved


def add(model: LanguageModel, saved: SavedAdapter, name: str) -> None:
    """Puts the adapter beside the layers of a model, under that name, frozen; it acts when ``lora.activate`` says so."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise AnymambaError("usage", _("{name!r} is no name for an adapter: letters, digits, - and _").format(name=name))
    settings = saved.config
    for path, parts in saved.tensors.items():
        layer = lora.at(model, path)
        device = layer.weight.device
        tensors = {part: tensor.to(device=device, dtype=torch.promote_types(tensor.dtype, torch.float32)) for part, tensor in parts.items()}
        rank = tensors["A"].shape[0]
        alpha = _alpha(settings, path, model)
        scaling = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
        adapter = Adapter(tensors["A"], tensors["B"], scaling, float(settings.get("lora_dropout") or 0.0), tensors.get("magnitude"))
        layer.adapters[name] = adapter.requires_grad_(False).train(layer.training)


@torch.no_grad()
def fill(model: LanguageModel, folder: Path, name: str = "default") -> None:
    """Puts the values of the folder into the adapters of that name, which the model has: training goes on."""
    saved, adapters = read(folder, model.config), lora.adapters_of(model, name)
    if saved.tensors.keys() != adapters.keys():
        raise _other_base(folder, saved, ", ".join(sorted(saved.tensors.keys() ^ adapters.keys())[:5]))
    for path, parts in saved.tensors.items():
        for part, tensor in parts.items():
            getattr(adapters[path], part).copy_(tensor)


def _alpha(settings: Mapping[str, Any], path: str, model: LanguageModel) -> float:
    saved = TensorNames(family_of(model.config), model.config).saved(f"{path}.weight").removesuffix(".weight")
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", saved):
            return float(value)
    return float(settings.get("lora_alpha", 8))


def _read(folder: Path, config: Config) -> SavedAdapter:
    if not folder.is_dir():
        raise AnymambaError(
            "adapter", _("there is no folder {path}").format(path=folder), why=_("{folder} has: ").format(folder=folder.parent)
            + files.listing(folder.parent),
        )  # fmt: skip
    settings = files.read_json(folder / CONFIG)
    if not isinstance(settings, dict) or not (folder / WEIGHTS).is_file():
        missing = CONFIG if not isinstance(settings, dict) else WEIGHTS
        pickle = (folder / "adapter_model.bin").is_file()
        raise AnymambaError(
            "adapter",
            _("{folder} is no adapter: it has no {file}").format(folder=folder, file=missing),
            why=_("it has: ") + files.listing(folder),
            fix=_("a pickle is not opened: save it as safetensors (PEFT: save_pretrained)") if pickle
            else _("name the folder that `anymamba train --lora` or PEFT's save_pretrained wrote"),
        )  # fmt: skip
    refuse_unsupported(settings, folder / CONFIG)
    names = TensorNames(family_of(config), config)
    tensors: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                ending = next((end for end in PARTS if key.endswith("." + end)), None)
                if ending is None:
                    unknown.append(key)
                    continue
                layer = names.ours(key.removeprefix(PREFIX).removesuffix(ending) + "weight").removesuffix(".weight")
                tensors.setdefault(layer, {})[PARTS[ending]] = file.get_tensor(key)
    except SafetensorError as error:
        raise AnymambaError(
            "adapter", _("{path} is damaged, missing or belongs to another model").format(path=folder / WEIGHTS), why=str(error)
        ) from error
    if unknown or not tensors:
        raise AnymambaError(
            "adapter",
            _("{path} holds other tensors than those of LoRA").format(path=folder / WEIGHTS),
            why=", ".join(unknown[:5]) or _("it is empty"),
        )
    return SavedAdapter(folder, settings, tensors, files.read_json(folder / BASE))


def _misshaped(weight: torch.Size, parts: Mapping[str, Tensor]) -> str:
    """What does not fit to a weight (out, in); empty when all does."""
    lacking = [part for part in "AB" if part not in parts]
    if lacking:
        return _("the adapter lacks ") + ", ".join(lacking)
    A, B = parts["A"], parts["B"]
    if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1] or (B.shape[0], A.shape[1]) != tuple(weight):
        return _("A {A}, B {B} for a weight of {weight}").format(A=tuple(A.shape), B=tuple(B.shape), weight=tuple(weight))
    if "magnitude" in parts and tuple(parts["magnitude"].shape) != (weight[0],):
        return _("magnitude {shape} for a weight of {weight}").format(shape=tuple(parts["magnitude"].shape), weight=tuple(weight))
    return ""


def _other_base(folder: Path, saved: SavedAdapter, why: str) -> AnymambaError:
    return AnymambaError(
        "adapter",
        _("the adapter in {folder} belongs to another base model").format(folder=folder),
        why=why,
        fix=_("it was trained on: ") + (saved.base_name or _("not said")),
    )


__all__ = ["SavedAdapter", "add", "described", "is_adapter", "read", "write"]
