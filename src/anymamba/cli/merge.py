"""anymamba merge MODEL ADAPTER OUT: one model of a base and its adapter, which every program loads."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=_("checkpoint folder or Hugging Face name"))
    parser.add_argument("adapter", help=_("folder that `anymamba train --lora` or PEFT wrote"))
    parser.add_argument("out", help=_("new folder for the merged model"))
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"),
        help=_("of the merged model; float32 is exact (default: as the base is saved)"),
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help=_("one JSON document on stdout"))


def run(arguments: argparse.Namespace) -> int:
    import torch

    from anymamba.generation.model import load
    from anymamba.models import hub
    from anymamba.models.merging import merge

    out = Path(arguments.out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AnymambaError("usage", _("{out} exists and is not empty").format(out=out), fix=_("name a new folder"))
    model = load(arguments.model, "cpu", adapter=arguments.adapter)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    rounding = merge(model, dtype)
    if dtype is not None:
        model.to(dtype)
    hub.save(model, out, model.tokenizer)
    if arguments.json:
        print(json.dumps({"out": str(out), **dataclasses.asdict(rounding)}))
        return 0
    print(out)
    text = ngettext("{layers} layer merged into {dtype}", "{layers} layers merged into {dtype}", rounding.layers)
    print(text.format(layers=rounding.layers, dtype=rounding.dtype) + ": " + _sentence(rounding), file=sys.stderr)
    return 0


def _sentence(rounding: object) -> str:
    values = dataclasses.asdict(rounding)  # type: ignore[call-overload]
    if values["dtype"] == "float32":
        return _("each weight is the exact sum, rounded once (at most {largest:.1e} off)").format(**values)
    return _(
        "rounding changes {lost:.1%} of what the adapter learnt (root mean square; worst {worst:.1%}, {worst_layer}); --dtype float32 "
        "keeps all of it"
    ).format(**values)
