"""A model into a Hugging Face folder, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models import families
from anymamba.models.config import Config
from anymamba.models.hub import files, quantized, weights
from anymamba.models.hub.loading import HEAD, TABLE, check_vocabulary
from anymamba.models.hub.names import TensorNames
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer

SHARD_BYTES = 5 * 10**9


def save(
    model: nn.Module,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a Hugging Face folder that transformers.AutoModelForCausalLM.from_pretrained loads, under a temporary name that
    becomes ``folder`` when all is written. Other files of an existing folder stay. Arguments as of ``write``."""
    with files.whole_folder(Path(folder), replaces=(*weights.PATTERNS, "params.json")) as temporary:
        write(model, temporary, tokenizer, shard_bytes=shard_bytes)


def write(
    model: nn.Module,
    folder: Path,
    tokenizer: Tokenizer | None = None,
    *,
    state: Mapping[str, Tensor] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """The files of ``save``, straight into an existing folder: config.json, generation_config.json, model.safetensors (shards
    above shard_bytes), the tokenizer's. state: the parameters by name, where the model's own are spread over processes.

    A model with rounded weights is saved as it is, for ``load`` alone: see quantized.py. Every token that ends a text, or an answer
    by the chat template, stands in generation_config.json. A head that was tied and no longer is the embedding's table is written too.
    Raises AnymambaError for a model with adapters or parametrisations: their names are others.
    """
    config: Config = model.config  # type: ignore[assignment]
    tensors = {name: tensor.detach() for name, tensor in (model.state_dict() if state is None else state).items()}
    rounded = any(tensor.dtype in (torch.int8, torch.uint8) for tensor in tensors.values())
    tied = config.tie_word_embeddings and _same_table(tensors.get(HEAD), tensors[TABLE])
    values = {**config.to_dict(), "tie_word_embeddings": tied}
    # checked against what is written: in some families blocks are shared only where the head is tied
    read_back = config if tied == config.tie_word_embeddings else type(config).from_dict(values)
    repeated = _checked({name: tensor for name, tensor in tensors.items() if not (rounded and name.endswith(".scale"))}, read_back)
    tensors = {name: tensor for name, tensor in tensors.items() if name.replace(".scale", ".weight") not in repeated}
    if tied:
        tensors.pop(HEAD, None)
    tensors = _apart(tensors)
    if rounded:
        values["quantization_config"] = quantized.ENTRY
    dtype = str(next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())).removeprefix("torch.")
    values.update(dtype=dtype, torch_dtype=dtype)  # the newer and the older name of the same field
    if tokenizer is not None:
        check_vocabulary(config, tokenizer)
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        values.update({name: value for name, value in ids.items() if value is not None})
        tokenizer.save(folder)
    files.write_json(folder / "config.json", values)
    special = {name: values[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    special["eos_token_id"] = _ends(config, tokenizer)
    files.write_json(folder / "generation_config.json", {"_from_model_config": True, **special})
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise AnymambaError(
            "disk",
            _("the weights need {needed:.2f} GB, {folder} has {free:.2f} GB free").format(
                needed=size / 1e9, folder=folder, free=free / 1e9
            ),
            fix=_("free some space or choose another folder"),
        )
    weights.write(saved_tensors(config, tensors), folder, shard_bytes)


def saved_tensors(config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's tensors as they stand in a checkpoint: other names, and one tensor an expert."""
    names = TensorNames(families.family_of(config), config)
    written = (pair for name, tensor in tensors.items() for pair in names.written(name, tensor))
    return {name: tensor.to("cpu").contiguous() for name, tensor in written}


def _checked(tensors: Mapping[str, Tensor], config: Config) -> set[str]:
    """A folder that nothing could load is not written. Returns the names under which a module stands that an earlier block shares."""
    with torch.device("meta"):
        model = LanguageModel(config)
    once, expected = dict(model.named_parameters()).keys() | {HEAD}, model.state_dict().keys()
    missing, other = sorted((expected & once) - tensors.keys() - {HEAD}), sorted(tensors.keys() - expected)
    if missing or other:
        raise AnymambaError(
            "checkpoint",
            _("the model is not saved: it has {name}").format(name=other[0])
            if other
            else _("the model is not saved: it lacks {name}").format(name=missing[0]),
            why=_("adapters, wrappers or parametrisations gave its weights names that no program would load"),
            fix=_("merge them first (PEFT: merge_and_unload), or save the adapters alone (PEFT: save_pretrained)"),
        )
    return expected - once


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file holds a tensor under one name: copies of those that stand under several."""
    places: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    return result


def _same_table(head: Tensor | None, table: Tensor) -> bool:
    return head is None or head.data_ptr() == table.data_ptr() or (head.shape == table.shape and torch.equal(head, table))


def _ends(config: Config, tokenizer: Tokenizer | None) -> int | list[int] | None:
    """Of generation_config.json: one id, or a list where an answer ends in another token than a text."""
    if tokenizer is None or not tokenizer.end_ids:
        return config.eos_token_id
    # a list was read from a generation_config.json; a single id may be no more than the configuration's default
    ids = config.eos_token_id if isinstance(config.eos_token_id, list) else []
    ends = list(dict.fromkeys([*tokenizer.end_ids, *ids]))
    return ends if len(ends) > 1 else ends[0]
