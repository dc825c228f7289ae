"""anymamba sizes: the sizes of --size in every family: parameters, and the memory to run and to train each."""

from __future__ import annotations

import argparse
import json
from typing import Any

from anymamba.cli.options import add_device, device_of, whole
from anymamba.language import _
from anymamba.models import families


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=families.names(), help=_("only this family"))
    parser.add_argument(
        "--vocab", type=whole(1), default=264, metavar="N",
        help=_("tokens of the tokenizer [264: bytes]; they are parameters too"),
    )  # fmt: skip
    add_device(parser)
    parser.add_argument("--json", action="store_true", help=_("print one JSON document"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.models.footprint import footprint
    from anymamba.models.sizes import config_of_size
    from anymamba.training.machine import memory

    device = device_of(arguments.device)
    free = memory.left(device)
    rows: list[dict[str, Any]] = []
    for family in [arguments.model] if arguments.model else families.names():
        for size in families.family(family).sizes:
            config = config_of_size(size, family, arguments.vocab)
            sizes = footprint(config)
            rows.append(
                {
                    "model": family, "size": size, "parameters": sizes.parameters, "width": config.hidden_size,
                    "layers": config.num_hidden_layers,
                    "run_float32_bytes": sizes.weights(4) + sizes.state, "run_16_bit_bytes": sizes.weights(2) + sizes.state,
                    "run_int8_bytes": sizes.weights(2, "int8") + sizes.state, "state_bytes": sizes.state, "train_bytes": sizes.training,
                    "trains_here": None if not free else sizes.training < free,
                }
            )  # fmt: skip
    if arguments.json:
        print(json.dumps({"device": str(device), "free_bytes": free, "vocabulary": arguments.vocab, "sizes": rows}, indent=1))
        return 0
    _print(rows, str(device), free, arguments.vocab)
    return 0


def _print(rows: list[dict[str, Any]], device: str, free: int, vocabulary: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from anymamba.training.machine.memory import text
    from anymamba.training.show.report import count

    console = Console()
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    headings = (
        (_("model"), "left"), (_("size"), "left"), (_("weights"), "right"), ("fp32", "right"),
        (_("16 bit"), "right"), ("int8", "right"), (_("train"), "right"), ("", "left"),
    )  # fmt: skip
    for heading, justify in headings:
        grid.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for before, row in zip([None, *rows], rows):
        if before is not None and before["model"] != row["model"]:
            grid.add_section()
        words = {None: "", True: "[green]" + _("fits") + "[/]", False: "[red]" + _("too large") + "[/]"}
        fits = words[row["trains_here"]]
        amounts = (text(row[name]) for name in ("run_float32_bytes", "run_16_bit_bytes", "run_int8_bytes", "train_bytes"))
        grid.add_row(row["model"], row["size"], count(row["parameters"]), *amounts, fits)
    console.print(grid)
    console.print(
        _(
            "Weights: how many, with a vocabulary of {vocabulary} tokens (the published models have 50280: --vocab "
            "50280). fp32, 16 bit, int8: memory to generate, weights and the state of one text, which does not grow. "
            "Train: weights, gradients and AdamW's moments; the rows at once come on top, as many as fit."
        ).format(vocabulary=vocabulary),
        highlight=False,
    )
    if free:
        console.print(_("Free on {device} now: {free}.").format(device=device, free=text(free)), highlight=False)
    console.print(
        _(
            "Start with --size tiny (minutes on a laptop); `anymamba train DATA --size NAME --plan` says what one "
            "size takes here."
        ),
        highlight=False,
    )
