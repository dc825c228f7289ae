"""anymamba quantize MODEL OUT: a folder with rounded weights, a quarter or an eighth of float32."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from anymamba.cli.options import add_activation
from anymamba.errors import AnymambaError
from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=_("checkpoint folder, GGUF file or Hugging Face name"))
    parser.add_argument("folder", metavar="OUT", help=_("the folder to write"))
    parser.add_argument("--width", choices=("int8", "int4"), default="int4", help=_("of the weights in linear layers [int4]"))
    parser.add_argument("--tokenizer", metavar="FILE|NAME", help=_("default: the one saved with the model"))
    add_activation(parser)


def run(arguments: argparse.Namespace) -> int:
    target = Path(arguments.folder).expanduser()
    if target.exists():
        raise AnymambaError(
            "usage", _("{path} exists").format(path=arguments.folder), fix=_("choose another name, or delete it first")
        )
    from anymamba import announce
    from anymamba.generation.model import load
    from anymamba.generation.quantize import quantize

    announce.listen(lambda text: print(text, file=sys.stderr, flush=True))
    model = load(arguments.model, "cpu", tokenizer=arguments.tokenizer, a_activation=arguments.a_activation)
    before = _bytes(model)
    quantize(model, arguments.width)
    model.save_pretrained(target)
    print(
        _("{path}: {megabytes:.1f} MB, {share:.0%} of what was read").format(
            path=target, megabytes=_bytes(model) / 1e6, share=_bytes(model) / before
        ),
        file=sys.stderr,
    )
    return 0


def _bytes(model: Any) -> int:
    """Of the weights, each once."""
    tensors = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()}
    return sum(tensors.values())
