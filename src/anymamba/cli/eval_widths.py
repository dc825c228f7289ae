"""anymamba eval MODEL FILE... --compare-widths: what a text costs in every width of the weights."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from anymamba.cli.eval_score import scored
from anymamba.language import _

if TYPE_CHECKING:
    import torch

WIDTHS: dict[str, tuple[str, str | None]] = {
    "float32": ("float32", None), "bfloat16": ("bfloat16", None), "int8": ("float32", "int8"), "int4": ("float32", "int4"),
}  # fmt: skip
"""The dtype and the rounding of each."""


def run(arguments: argparse.Namespace, device: torch.device) -> int:
    """One model in memory at a time."""
    from anymamba.cli.model_options import no_tokenizer
    from anymamba.cli.quantize import bytes_of
    from anymamba.generation.model import load

    widths: list[dict[str, Any]] = []
    for name, (dtype, rounding) in WIDTHS.items():
        model = load(arguments.model, device, dtype, rounding, tokenizer=arguments.tokenizer, a_activation=arguments.a_activation)
        tokenizer = model.tokenizer or no_tokenizer(arguments.model)
        entries = [scored(arguments, model, tokenizer, path) for path in arguments.files]
        widths.append({"width": name, "weight_bytes": bytes_of(model), "files": entries})
        if not arguments.json:
            for entry, whole in zip(entries, widths[0]["files"]):
                print(f"{entry['file']}: " + _line(name, entry, whole, widths[-1]["weight_bytes"]), flush=True)
        del model
    if arguments.json:
        document = {"model": str(arguments.model), "device": str(device), "mode": arguments.mode, "widths": widths}
        print(json.dumps(document, ensure_ascii=False, indent=1))
    return 0


def _line(name: str, entry: dict[str, Any], whole: dict[str, Any], weight_bytes: int) -> str:
    return _(
        "{width:9} {bits_per_byte:.4f} bits per byte, perplexity {perplexity:.3f} ({change:+.2%}), weights {megabytes:.1f} MB"
    ).format(
        width=name, bits_per_byte=entry["bits_per_byte"], perplexity=entry["perplexity"],
        change=entry["perplexity"] / whole["perplexity"] - 1, megabytes=weight_bytes / 1e6,
    )  # fmt: skip
