"""anymamba quantize MODEL OUT: a folder with rounded weights, a quarter or an eighth of float32."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from anymamba.cli.options import add_activation, whole
from anymamba.errors import AnymambaError
from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=_("checkpoint folder, GGUF file or Hugging Face name"))
    parser.add_argument("folder", metavar="OUT", help=_("the folder to write"))
    parser.add_argument("--width", choices=("int8", "int4"), default="int4", help=_("of the weights in linear layers [int4]"))
    parser.add_argument(
        "--calibrate", metavar="FILE",
        help=_(
            "a text in the language and of the kind that the model will write: the weights are rounded so that what it "
            "computes of this text changes least"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--calibrate-tokens", type=whole(128), default=8192, metavar="N",
        help=_("tokens of the text that are read [{tokens}]").format(tokens=8192),
    )  # fmt: skip
    parser.add_argument("--tokenizer", metavar="FILE|NAME", help=_("default: the one saved with the model"))
    add_activation(parser)


def run(arguments: argparse.Namespace) -> int:
    target = Path(arguments.folder).expanduser()
    if target.exists():
        raise AnymambaError(
            "usage", _("{path} exists").format(path=arguments.folder), fix=_("choose another name, or delete it first")
        )
    if arguments.calibrate and arguments.width != "int4":
        raise AnymambaError("usage", _("--calibrate is for --width int4"))
    from anymamba import announce
    from anymamba.generation.model import load
    from anymamba.generation.quantize import quantize

    announce.listen(lambda text: print(text, file=sys.stderr, flush=True))
    model = load(arguments.model, "cpu", tokenizer=arguments.tokenizer, a_activation=arguments.a_activation)
    before = bytes_of(model)
    quantize(model, arguments.width, _calibration(arguments, model) if arguments.calibrate else None)
    model.save_pretrained(target)
    print(
        _("{path}: {megabytes:.1f} MB, {share:.0%} of what was read").format(
            path=target, megabytes=bytes_of(model) / 1e6, share=bytes_of(model) / before
        ),
        file=sys.stderr,
    )
    return 0


def _calibration(arguments: argparse.Namespace, model: Any) -> Any:
    from anymamba.cli.model_options import no_tokenizer
    from anymamba.generation.calibrate import Calibration, windows
    from anymamba.training.data.readers import documents
    from anymamba.training.data.skips import Skips

    tokenizer = model.tokenizer or no_tokenizer(arguments.model)
    ids: list[int] = []
    for text in documents([arguments.calibrate], Skips()):
        ids += tokenizer.encode(text)
        if len(ids) >= arguments.calibrate_tokens:
            break
    rows = windows(ids, arguments.calibrate_tokens, arguments.calibrate)
    print(_("calibrated on {tokens} tokens of {file}").format(tokens=rows.numel(), file=arguments.calibrate), file=sys.stderr)
    return Calibration(model, rows, _show if sys.stderr.isatty() else None)


def _show(block: int, blocks: int) -> None:
    print(_("calibrating: block {block} of {blocks}").format(block=block, blocks=blocks), file=sys.stderr, flush=True)


def bytes_of(model: Any) -> int:
    """Of the weights, each once."""
    tensors = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()}
    return sum(tensors.values())
