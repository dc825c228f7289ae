"""The name that a user probably meant. Standard library only."""

from __future__ import annotations

import difflib
from typing import Dict, Iterable, Optional

MEANINGS = {
    "batch": "batch-tokens", "batch-size": "micro-batch", "learning-rate": "lr", "num-epochs": "epochs", "num-train-epochs": "epochs",
    "max-steps": "steps", "num-steps": "steps", "context-length": "length", "seq-len": "length", "max-length": "length",
    "output-dir": "out", "vocab-size": "train-tokenizer", "warmup-steps": "warmup", "save-steps": "save-every",
    "eval-steps": "eval-every", "gradient-checkpointing": "checkpointing", "max-grad-norm": "clip", "dataset": "data", "files": "data",
    "max-new-tokens": "max-tokens", "n-predict": "max-tokens", "fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16",
}  # fmt: skip
"""What other programs call an option or a value -> its name here, where this one has it."""


def nearest(word: str, names: Iterable[str]) -> Optional[str]:
    """The likeliest of ``names`` for a mistyped ``word``; None when none of them is like it.

    Dashes, underscores and case make no difference.
    """
    known: Dict[str, str] = {_plain(name): name for name in reversed(list(names))}
    meant = {_plain(other): _plain(name) for other, name in MEANINGS.items() if _plain(name) in known}
    plain = _plain(word)
    exact = known.get(plain) or known.get(meant.get(plain, ""))
    if exact:
        return exact
    close = difflib.get_close_matches(plain, [*known, *meant], 1, 0.75)
    if close:
        return known[meant.get(close[0], close[0])]
    # a name cut short, or one with a word too many, is nearer than one that merely shares letters
    parts = [name for name in known if min(len(name), len(plain)) > 2 and (name in plain or plain in name)]
    close = difflib.get_close_matches(plain, parts, 1, 0.0) or difflib.get_close_matches(plain, list(known), 1, 0.55)
    return known[close[0]] if close else None


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "").replace("_", "").lower()
