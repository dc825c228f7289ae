"""anymamba sizes: the sizes of --size in every family: parameters, and the memory to run and to train each."""

from __future__ import annotations

import argparse
import json
from typing import Any

from anymamba.cli.options import add_device, device_of, whole
from anymamba.language import say
from anymamba.models import families


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=families.names(), help=say("only this family", "只列出该系列"))
    parser.add_argument(
        "--vocab", type=whole(1), default=264, metavar="N",
        help=say("tokens of the tokenizer [264: bytes]; they are parameters too", "分词器的词元数 [264：字节]；词表也是参数"),
    )  # fmt: skip
    add_device(parser)
    parser.add_argument("--json", action="store_true", help=say("print one JSON document", "输出一个 JSON 文档"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.models.footprint import footprint
    from anymamba.models.sizes import config_of_size
    from anymamba.training.run import memory

    device = device_of(arguments.device)
    free = memory.left(device)
    rows: list[dict[str, Any]] = []
    for family in [arguments.model] if arguments.model else families.names():
        for size in families.family(family).sizes:
            config = config_of_size(size, family, arguments.vocab)
            taken = footprint(config)
            rows.append(
                {
                    "model": family, "size": size, "parameters": taken.parameters, "width": config.hidden_size,
                    "layers": config.num_hidden_layers,
                    "run_float32_bytes": taken.weights(4) + taken.state, "run_16_bit_bytes": taken.weights(2) + taken.state,
                    "run_int8_bytes": taken.weights(2, int8=True) + taken.state, "state_bytes": taken.state, "train_bytes": taken.training,
                    "trains_here": None if not free else taken.training < free,
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

    from anymamba.training.run.memory import text
    from anymamba.training.show.report import count

    console = Console()
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    headings = (
        (say("model", "模型"), "left"), (say("size", "规模"), "left"), (say("weights", "参数"), "right"), ("fp32", "right"),
        (say("16 bit", "16 位"), "right"), ("int8", "right"), (say("train", "训练"), "right"), ("", "left"),
    )  # fmt: skip
    for heading, justify in headings:
        grid.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for before, row in zip([None, *rows], rows):
        if before is not None and before["model"] != row["model"]:
            grid.add_section()
        words = {None: "", True: "[green]" + say("fits", "可行") + "[/]", False: "[red]" + say("too large", "过大") + "[/]"}
        fits = words[row["trains_here"]]
        amounts = (text(row[name]) for name in ("run_float32_bytes", "run_16_bit_bytes", "run_int8_bytes", "train_bytes"))
        grid.add_row(row["model"], row["size"], count(row["parameters"]), *amounts, fits)
    console.print(grid)
    console.print(
        say(
            f"Weights: how many, with a vocabulary of {vocabulary} tokens (the published models have 50280: --vocab 50280). fp32, "
            "16 bit, int8: memory to generate, weights and the state of one text, which does not grow. Train: weights, gradients and "
            "AdamW's moments; the rows at once come on top, as many as fit.",
            f"参数：词表为 {vocabulary} 个词元时的数目（公开模型为 50280：--vocab 50280）。fp32、16 位、int8：生成所需内存，即权重与"
            "一段文本的状态（不随长度增长）。训练：权重、梯度与 AdamW 动量；另加同时处理的行，能放下多少用多少。",
        ),
        highlight=False,
    )
    if free:
        console.print(say(f"Free on {device} now: {text(free)}.", f"{device} 当前可用：{text(free)}。"), highlight=False)
    console.print(
        say(
            "Start with --size tiny (minutes on a laptop); `anymamba train DATA --size NAME --plan` says what one size takes here.",
            "可从 --size tiny 开始（笔记本上几分钟）；`anymamba train 数据 --size 名称 --plan` 说明某一规模在本机的开销。",
        ),
        highlight=False,
    )
