"""The tokenizer and the chat template of a GGUF file, as ``anymamba.models.tokenizer`` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from anymamba.errors import AnymambaError, UnsupportedError
from anymamba.language import _
from anymamba.models.gguf import splitting
from anymamba.models.gguf.file import GGUFFile
from anymamba.models.tokenizer import Tokenizer

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
"""Types of tokens, beside 1, a normal one."""

_LONGEST = 512
"""Characters of a token that we look for the parts of; in tokenizers that people train none is longer."""


def has_tokenizer(file: GGUFFile) -> bool:
    return file.metadata.get("tokenizer.ggml.model", "none") not in ("none", "no_vocab")


def tokenizer_of(file: GGUFFile) -> Tokenizer:
    """Raises UnsupportedError for a kind of tokenizer that we cannot rebuild, AnymambaError for one whose parts do not fit together."""
    metadata = file.metadata
    kind = metadata["tokenizer.ggml.model"]
    tokens = _strings(file, "tokenizer.ggml.tokens")
    types = _numbers(file, "tokenizer.ggml.token_type", 1)
    count = next((index + 1 for index in reversed(range(len(types))) if types[index] != UNUSED), 0)  # others fill the embedding up
    tokens, types = tokens[:count], types[:count]
    if kind == "gpt2":
        backend = _byte_level(file, tokens, types)
    elif kind == "llama":
        backend = _sentence_piece(file, tokens, types)
    else:
        raise _unknown(file, "tokenizer.ggml.model", kind, ["gpt2", "llama"])
    names = {ours: _text(metadata, tokens, f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in _SPECIAL.items()}
    template = metadata.get("tokenizer.chat_template")
    return Tokenizer(backend, **names, chat_template=template if isinstance(template, str) else None)


_SPECIAL = {"eos": "eos", "bos": "bos", "pad": "padding"}


def _text(metadata: dict[str, Any], tokens: Sequence[str], key: str) -> str | None:
    number = metadata.get(key)
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else None


def _byte_level(file: GGUFFile, tokens: Sequence[str], types: Sequence[int]) -> tokenizers.Tokenizer:
    name = file.metadata.get("tokenizer.ggml.pre", "default")
    if name not in splitting.NAMES:
        raise _unknown(file, "tokenizer.ggml.pre", name, splitting.NAMES)
    pre_tokenizer, ignore_merges = splitting.splitter(name)
    added = _added_at_the_end(types)
    vocabulary = {token: index for index, token in enumerate(tokens[:added])}
    merges = [pair for pair in map(_pair, _strings(file, "tokenizer.ggml.merges")) if _merges(pair, vocabulary)]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    _add(backend, tokens, types)
    return backend


def _pair(merge: str) -> tuple[str, str]:
    """Of "left right"; left may begin with a space."""
    place = merge.find(" ", 1)
    return merge[:place], merge[place + 1 :]


def _merges(pair: tuple[str, str], vocabulary: dict[str, int]) -> bool:
    return pair[0] in vocabulary and pair[1] in vocabulary and pair[0] + pair[1] in vocabulary


def _sentence_piece(file: GGUFFile, tokens: Sequence[str], types: Sequence[int]) -> tokenizers.Tokenizer:
    """A BPE whose merges follow from the scores: of two neighbours that are a token together, those of the highest score merge first."""
    scores = _numbers(file, "tokenizer.ggml.scores", 0.0)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, kind, score in zip(tokens, types, scores):
        if kind in (UNKNOWN, CONTROL, UNUSED, BYTE) or len(token) > _LONGEST:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-float(score), vocabulary[left], vocabulary[right], (left, right)))
    ranked.sort(key=lambda entry: entry[:3])
    unknown = next((token for token, kind in zip(tokens, types) if kind == UNKNOWN), None)
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=[entry[3] for entry in ranked], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = file.metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if prefix else undo)
    _add(backend, tokens, types)
    return backend


def _added_at_the_end(types: Sequence[int]) -> int:
    """The number of tokens before those at the end that were added to the tokenizer: they are none of its own vocabulary."""
    count = len(types)
    while count and types[count - 1] in (CONTROL, USER_DEFINED):
        count -= 1
    return count


def _add(backend: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Marks the tokens that a text is never cut through, in their order: those that are not in the vocabulary get the next numbers."""
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, types)
        if kind in (CONTROL, USER_DEFINED) and token
    ]
    backend.add_tokens(added)


def _strings(file: GGUFFile, key: str) -> Sequence[str]:
    value = file.metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise AnymambaError("gguf", _("{path}: metadata {key} is no list of texts").format(path=file.path, key=key))
    if key.endswith("tokens") and len(set(value)) < len(value):
        raise AnymambaError("gguf", _("{path}: metadata {key} has a token twice").format(path=file.path, key=key))
    return value


def _numbers(file: GGUFFile, key: str, default: float) -> list[Any]:
    """One number a token."""
    value, count = file.metadata.get(key), len(_strings(file, "tokenizer.ggml.tokens"))
    if value is None:
        return [default] * count
    if not isinstance(value, np.ndarray) or len(value) != count:
        reason = _("{path}: metadata {key} is no list of {count} numbers, one a token")
        raise AnymambaError("gguf", reason.format(path=file.path, key=key, count=count))
    return value.tolist()


def _unknown(file: GGUFFile, key: str, value: Any, known: Any) -> UnsupportedError:
    return UnsupportedError(
        "tokenizer",
        _("{path}: metadata {key} is {value!r}, a kind of tokenizer that we do not have").format(path=file.path, key=key, value=value),
        why=_("known: ") + ", ".join(known),
        fix=_("name the model's own tokenizer with --tokenizer"),
    )
