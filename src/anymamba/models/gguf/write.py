"""A GGUF file of a model and its tokenizer that llama.cpp loads, by the package ``gguf``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anymamba.errors import AnymambaError, UnsupportedError
from anymamba.language import _
from anymamba.models.config import Config
from anymamba.models.gguf import architectures, splitting
from anymamba.models.gguf.vocabulary import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from anymamba.models.tokenizer import Tokenizer
from anymamba.reference import blocks

TYPES = "F32", "F16", "Q8_0", "Q4_0"
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}
"""llama.cpp's numbers for what most tensors of a file are."""

_HEAD, _TABLE = "lm_head.weight", "backbone.embeddings.weight"
_NEVER_MERGED = "\u0100 \u0100"
"""Two zero bytes: llama.cpp wants a list of merges, and GGUF has no empty lists. A merge that is no token changes nothing."""


def write(model: nn.Module, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None, path: Path, kind: str) -> None:
    """tensors: of the model by name, in any floating dtype. kind: of the matrices, one of ``TYPES``; what llama.cpp keeps in float32
    (norms, convolutions, A, D) is float32, a matrix whose rows are no whole blocks is in F16, and so is what goes into the
    embedding and the head below eight bits: Q8_0, as llama.cpp's own converter chooses more bits there.

    The file appears under its name when it is whole. Raises UnsupportedError for a model or tokenizer that llama.cpp has no form for,
    AnymambaError where the package gguf is missing or the disk is full.
    """
    gguf = _package()
    config: Config = model.config  # type: ignore[assignment]
    architecture, numbers = architectures.metadata_of(config)
    vocabulary = _vocabulary(tokenizer, config, architecture)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer = gguf.GGUFWriter(temporary, architecture)
        for key, value in {f"{architecture}.{key}": value for key, value in numbers.items()}.items():
            _number(writer, key, value)
        writer.add_file_type(_FILE_TYPES[kind])
        for key, value in vocabulary.items():
            _entry(gguf, writer, key, value)
        needed = 0
        for name, place in architectures.places(config).items():
            if name not in tensors or (name == _HEAD and config.tie_word_embeddings):
                continue
            data, chosen = _data(name, place.write(tensors[name].detach().cpu()), kind)
            writer.add_tensor(place.name, data.numpy(), raw_dtype=None if chosen is None else gguf.GGMLQuantizationType[chosen])
            needed += data.numel() * data.element_size()
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise AnymambaError(
                "disk",
                _("the weights need {needed:.2f} GB, {folder} has {free:.2f} GB free").format(
                    needed=needed / 1e9, folder=path.parent, free=free / 1e9
                ),
                fix=_("free some space or choose another folder"),
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise AnymambaError(
            "gguf", _("writing GGUF needs the package gguf"), why=str(error), fix='pip install "anymamba[gguf]"'
        ) from error
    return gguf


def _data(name: str, values: Tensor, kind: str) -> tuple[Tensor, str | None]:
    """The tensor as the file gets it, and its type where numpy's dtype does not say it."""
    matrix = values.dim() == 2 and name.endswith(("_proj.weight", _HEAD, _TABLE))
    if not matrix or kind == "F32":
        return values.float().contiguous(), None
    if kind == "F16" or values.shape[1] % blocks.SIZE or name.endswith("dt_proj.weight"):
        return values.half().contiguous(), None
    chosen = "Q8_0" if name in (_HEAD, _TABLE) else kind
    return blocks.packed(values, chosen.lower()), chosen


def _number(writer: Any, key: str, value: Any) -> None:
    add = writer.add_bool if isinstance(value, bool) else writer.add_float32 if isinstance(value, float) else writer.add_uint32
    add(key, value)


def _entry(gguf: Any, writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        _number(writer, key, value)


def _vocabulary(tokenizer: Tokenizer | None, config: Config, architecture: str) -> dict[str, Any]:
    """The metadata of the tokenizer."""
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none", f"{architecture}.vocab_size": config.vocab_size}
    rules = json.loads(tokenizer.backend.to_str())
    model = rules["model"]
    tokens: list[str] = [f"[PAD{index}]" for index in range(config.vocab_size)]
    types = [UNUSED] * config.vocab_size
    for token, index in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        tokens[index], types[index] = token, 1
    for index, added in tokenizer.backend.get_added_tokens_decoder().items():
        types[index] = CONTROL if added.special else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
    entries: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    name = splitting.name_of(rules.get("pre_tokenizer"))
    if model.get("type") == "BPE" and name is not None and not model.get("byte_fallback"):
        entries |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name, "tokenizer.ggml.merges": merges or [_NEVER_MERGED]}
    elif model.get("type") == "BPE" and model.get("byte_fallback"):
        _by_scores(entries, model, merges)
    else:
        raise UnsupportedError(
            "tokenizer",
            _("llama.cpp has no tokenizer that cuts a text as this one does ({kind})").format(kind=model.get("type")),
            fix=_("--without-tokenizer writes the weights alone"),
        )
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id, "eot": tokenizer.end_of_turn_id}
    entries |= {f"tokenizer.ggml.{name}_token_id": value for name, value in ids.items() if value is not None}
    entries["tokenizer.ggml.add_bos_token"] = False
    if tokenizer.chat_template:
        entries["tokenizer.chat_template"] = tokenizer.chat_template
    return entries


def _by_scores(entries: dict[str, Any], model: dict[str, Any], merges: list[str]) -> None:
    """SentencePiece's form: the earlier a token's merge, the higher its score."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", "", 1), index)
    tokens, types = entries["tokenizer.ggml.tokens"], entries["tokenizer.ggml.token_type"]
    for index, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[index] = BYTE
        elif token == model.get("unk_token"):
            types[index] = UNKNOWN
    entries["tokenizer.ggml.model"] = "llama"
    entries["tokenizer.ggml.scores"] = [-float(rank.get(token, 0)) for token in tokens]


