"""anymamba export MODEL FILE.gguf: a file that llama.cpp, Ollama and LM Studio load."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anymamba.cli.options import add_activation
from anymamba.errors import AnymambaError
from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=_("checkpoint folder, GGUF file or Hugging Face name"))
    parser.add_argument("file", metavar="FILE.gguf", help=_("the file to write"))
    parser.add_argument(
        "--type", choices=("F32", "F16", "Q8_0", "Q4_0"), default="F16",
        help=_("of the matrices [F16]; Q8_0 takes half of its bytes and Q4_0 a quarter"),
    )  # fmt: skip
    parser.add_argument("--tokenizer", metavar="FILE|NAME", help=_("default: the one saved with the model"))
    parser.add_argument("--without-tokenizer", action="store_true", help=_("write the weights alone"))
    parser.add_argument("--force", action="store_true", help=_("replace a file that exists"))
    add_activation(parser)


def run(arguments: argparse.Namespace) -> int:
    target = Path(arguments.file).expanduser()
    if target.suffix != ".gguf":
        raise AnymambaError("usage", _("{path} must end in .gguf").format(path=arguments.file))
    if target.exists() and not arguments.force:
        raise AnymambaError(
            "usage", _("{path} exists").format(path=arguments.file), fix=_("choose another name, or replace it with --force")
        )
    from anymamba.generation.model import load
    from anymamba.models.gguf.write import write
    from anymamba.models.trunk.stored_linear import unpacked_state

    model = load(arguments.model, "cpu", tokenizer=arguments.tokenizer, a_activation=arguments.a_activation)
    tokenizer = None if arguments.without_tokenizer else model.tokenizer
    if tokenizer is None and not arguments.without_tokenizer:
        raise AnymambaError(
            "tokenizer",
            _("{path} has no tokenizer").format(path=arguments.model),
            fix=_("name it with --tokenizer; --without-tokenizer writes the weights alone"),
        )
    write(model, unpacked_state(model), tokenizer, target, arguments.type)
    size = target.stat().st_size
    print(_("{path}: {megabytes:.1f} MB, {type}").format(path=target, megabytes=size / 1e6, type=arguments.type), file=sys.stderr)
    return 0
