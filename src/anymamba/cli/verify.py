"""anymamba verify: every backend against the exact result; anymamba verify MODEL --against A B: how far two ways drift apart."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anymamba.cli.options import add_activation, add_device, add_threads, device_of, whole
from anymamba.errors import AnymambaError
from anymamba.language import say

if TYPE_CHECKING:
    import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", help=say("checkpoint folder or Hugging Face name", "检查点目录或 Hugging Face 名称")
    )
    parser.add_argument(
        "--against", nargs=2, metavar=("A", "B"),
        help=say(
            "two sides: words joined by colons, as cpu torch:float64; backends (cpu, torch or torch-chunked, reference or "
            "torch-reference, cuda, triton, triton-interpreted), dtypes (float32, bfloat16, float64), modes (scan, step, whole) and "
            "options (residual-float32, residual-dtype, state-bfloat16, resync-N)",
            "比较的两侧，词语用冒号连接，例如 cpu torch:float64；后端（cpu、torch 即 torch-chunked、reference 即 torch-reference、cuda、"
            "triton、triton-interpreted）、数据类型（float32、bfloat16、float64）、模式（scan、step、whole）与选项"
            "（residual-float32、residual-dtype、state-bfloat16、resync-N）",
        ),
    )  # fmt: skip
    parser.add_argument(
        "--tokens", type=whole(1), default=4096, metavar="N",
        help=say("tokens that both sides read (default 4096)", "两侧共同读取的词元数（默认 4096）"),
    )  # fmt: skip
    parser.add_argument(
        "--greedy", type=whole(0), default=512, metavar="N",
        help=say("tokens that each side writes (default 512; 0: none)", "各自贪心生成的词元数（默认 512；0 表示不生成）"),
    )  # fmt: skip
    parser.add_argument(
        "--text", metavar="FILE",
        help=say("text to read; default: what the model writes itself", "要读取的文本；默认使用模型自己写的文本"),
    )  # fmt: skip
    parser.add_argument(
        "--plot", metavar="FILE", help=say("drift over position, .svg or .png", "漂移随位置变化图，.svg 或 .png")
    )
    parser.add_argument(
        "--only", default="", metavar="OP", help=say("only ops whose name contains this", "只检查名称包含该文字的算子")
    )
    parser.add_argument(
        "--dtype", "--dtypes", dest="dtypes", metavar="DTYPE[,DTYPE]",
        help=say(
            "of the ops' inputs (default float32,bfloat16); with a model: of both sides, or of A,B (default: the checkpoint's)",
            "算子输入的数据类型（默认 float32,bfloat16）；给出模型时：两侧的，或 A,B 各自的数据类型（默认同检查点）",
        ),
    )  # fmt: skip
    add_activation(parser)
    add_device(parser)
    add_threads(parser)
    parser.add_argument(
        "--json", action="store_true", help=say("one JSON document on stdout", "在标准输出打印一个 JSON 文档")
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true",
        help=say("every case; with a model: KL and state over position too", "显示每个案例；给出模型时另显示 KL 与状态随位置的变化"),
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """0: all within the criterion, or only rounding; 1: a backend failed, or a fault was found."""
    if bool(arguments.model) != bool(arguments.against):
        raise AnymambaError(
            "usage",
            say("a model and --against A B go together", "模型与 --against A B 必须同时给出"),
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
                say(f"--dtype {name}: there is no such dtype here", f"--dtype {name}：没有该数据类型"),
                fix=say("choose from ", "请选择：") + ", ".join(DTYPES),
            )
    return [DTYPES[name] for name in names]
