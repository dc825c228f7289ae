"""anymamba verify: every backend against the exact result; anymamba verify MODEL --against A B: how far two ways drift apart."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anymamba.cli.options import add_activation, add_device, add_threads, device_of, whole
from anymamba.errors import AnymambaError
from anymamba.language import _

if TYPE_CHECKING:
    import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help=_("checkpoint folder or Hugging Face name"))
    parser.add_argument(
        "--against", nargs=2, metavar=("A", "B"),
        help=_(
            "two sides: words joined by colons, as cpu torch:float64; backends (cpu, torch or torch-chunked, "
            "reference or torch-reference, cuda, triton, triton-interpreted), dtypes (float32, bfloat16, float64), "
            "modes (scan, step, whole) and options (residual-float32, residual-dtype, state-bfloat16, resync-N)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--tokens", type=whole(1), default=4096, metavar="N",
        help=_("tokens that both sides read (default 4096)"),
    )  # fmt: skip
    parser.add_argument(
        "--greedy", type=whole(0), default=512, metavar="N",
        help=_("tokens that each side writes (default 512; 0: none)"),
    )  # fmt: skip
    parser.add_argument(
        "--text", metavar="FILE",
        help=_("text to read; default: what the model writes itself"),
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help=_("drift over position, .svg or .png"))
    parser.add_argument("--only", default="", metavar="OP", help=_("only ops whose name contains this"))
    parser.add_argument(
        "--dtype", "--dtypes", dest="dtypes", metavar="DTYPE[,DTYPE]",
        help=_(
            "of the ops' inputs (default float32,bfloat16); with a model: of both sides, or of A,B (default: the "
            "checkpoint's)"
        ),
    )  # fmt: skip
    add_activation(parser)
    add_device(parser)
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help=_("one JSON document on stdout"))
    parser.add_argument(
        "-v", "--verbose", action="store_true",
        help=_("every case; with a model: KL and state over position too"),
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """0: all within the criterion, or only rounding; 1: a backend failed, or a fault was found."""
    if bool(arguments.model) != bool(arguments.against):
        raise AnymambaError(
            "usage",
            _("a model and --against A B go together"),
            fix="anymamba verify MODEL --against cpu torch",
        )
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    dtypes = _dtypes(arguments.dtypes)
    device = device_of(arguments.device)
    if arguments.model:
        from anymamba.cli import verify_model

        return verify_model.run(arguments, device, dtypes)
    from anymamba.cli import verify_ops

    return verify_ops.run(arguments, device, tuple(dtypes) or (torch.float32, torch.bfloat16))


def _dtypes(text: str | None) -> list[torch.dtype]:
    """The dtypes of a list joined by commas; none for None."""
    from anymamba.numerics.sides import DTYPES

    names = text.split(",") if text else []
    for name in names:
        if name not in DTYPES:
            raise AnymambaError(
                "usage",
                _("--dtype {name}: there is no such dtype here").format(name=name),
                fix=_("choose from ") + ", ".join(DTYPES),
            )
    return [DTYPES[name] for name in names]
