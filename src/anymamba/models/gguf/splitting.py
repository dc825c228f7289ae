"""How a byte-level BPE cuts a text into words before it merges: GGUF has a name for it where tokenizer.json has the rules.

The names and their rules are those of llama.cpp (src/llama-vocab.cpp); the rules are written as the models' own tokenizer.json have them.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, pre_tokenizers

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {"llama-bpe": _LLAMA3, "qwen2": _QWEN2, "tekken": _TEKKEN}
_SAME = {
    "gpt-2": ("phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "default"),
    "smollm": ("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "dbrx", "smaug-bpe", "chatglm-bpe"),
    "qwen2": ("stablelm2", "deepseek-r1-qwen", "hunyuan"),
    "falcon": (), "tekken": (),
}  # fmt: skip
NAMES = {name: main for main, others in _SAME.items() for name in (main, *others)}
"""Every name that we know -> the one whose rules are the same."""


def splitter(name: str) -> tuple[Any, bool]:
    """The pre-tokenizer of that name, one of ``NAMES``, and whether a word that is a token is taken whole, without merges."""
    main = NAMES[name]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=main not in _PATTERNS)
    if main in _PATTERNS:
        split = pre_tokenizers.Split(Regex(_PATTERNS[main]), behavior="isolated")
        return pre_tokenizers.Sequence([split, byte_level]), main in ("llama-bpe", "tekken")
    if main == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]), False
    if main == "falcon":
        threes = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), behavior="isolated")
        parts = [pre_tokenizers.Punctuation("contiguous"), byte_level, pre_tokenizers.Digits(individual_digits=False), threes]
        return pre_tokenizers.Sequence(parts), False
    return byte_level, False


def name_of(rules: dict[str, Any] | None) -> str | None:
    """The name for the rules of a tokenizer.json's ``pre_tokenizer``, or None where llama.cpp has none that we know."""
    if rules is None:
        return None
    parts = rules["pretokenizers"] if rules["type"] == "Sequence" else [rules]
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"]:
        return "smollm"
    if kinds == ["Punctuation", "ByteLevel", "Digits", "Split"]:
        return "falcon"
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        pattern = parts[0]["pattern"].get("Regex")
        return next((name for name, known in _PATTERNS.items() if known == pattern), None)
    return None
