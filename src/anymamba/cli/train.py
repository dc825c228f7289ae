"""``anymamba train``: a language model on your text, or one tuned on instructions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from anymamba.language import say
from anymamba.training.config import TrainConfig, add_flags, checked, given_flags, read_toml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = say(
        "examples:\n"
        "  anymamba train book.txt                                   stage 1, a tiny byte-level model\n"
        "  anymamba train corpus/ --size 130m --train-tokenizer 16000 --max-minutes 60\n"
        "  anymamba train chats.jsonl --instruct --from runs/corpus-130m/step-001000\n"
        "  anymamba train --resume auto --out runs/book-tiny         after Ctrl-C or a crash\n"
        "  torchrun --nproc_per_node 2 -m anymamba train corpus/ --size 370m --shard",
        "示例：\n"
        "  anymamba train book.txt                                   第一阶段，tiny 字节级模型\n"
        "  anymamba train corpus/ --size 130m --train-tokenizer 16000 --max-minutes 60\n"
        "  anymamba train chats.jsonl --instruct --from runs/corpus-130m/step-001000\n"
        "  anymamba train --resume auto --out runs/book-tiny         在 Ctrl-C 或崩溃之后继续\n"
        "  torchrun --nproc_per_node 2 -m anymamba train corpus/ --size 370m --shard",
    )
    parser.add_argument(
        "--config", metavar="FILE", help=say("TOML file with these options; flags win", "含这些选项的 TOML 文件；命令行优先")
    )
    parser.add_argument(
        "--resume",
        default="",
        metavar="auto|PATH",
        help=say("continue the run in --out (auto), or from a step folder", "继续 --out 中的运行（auto），或从某个检查点继续"),
    )
    parser.add_argument("--json", action="store_true", help=say("print the result as JSON", "以 JSON 输出结果"))
    parser.add_argument("-q", "--quiet", action="store_true", help=say("no progress", "不显示进度"))
    add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    config = resolve(arguments)
    from anymamba.training.parallel import Processes
    from anymamba.training.report import Reporter
    from anymamba.training.train import train

    processes = Processes(config.device)
    try:
        result = train(config, arguments.resume, Reporter(quiet=arguments.quiet or not processes.main), processes)
    finally:
        processes.close()
    if processes.main:
        if arguments.json:
            print(json.dumps(document(result), ensure_ascii=False))
        else:
            print(result.checkpoint)
            if not arguments.quiet:
                print(
                    say("generate with it: ", "用它生成：") + f"anymamba {'chat' if config.instruct else 'generate'} {result.checkpoint}",
                    file=sys.stderr,
                )
    return result.exit_code


def resolve(arguments: argparse.Namespace) -> TrainConfig:
    """Flags over the TOML file; when a run is resumed, over what its run.json says."""
    flags = given_flags(arguments)
    values: dict[str, Any] = read_toml(arguments.config) if arguments.config else {}
    values.update(flags)
    if arguments.resume:
        values = {**_saved(arguments.resume, values), **values}
    return TrainConfig(**checked(values, "anymamba train"))


def _saved(resume: str, values: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the run that is continued: a run started with flags need not be given them again."""
    from anymamba.training.runfolder import config_document, saved_config

    folder = Path(values["out"]).expanduser() if values.get("out") else None
    if folder is None and resume != "auto":
        path = Path(resume).expanduser()
        folder = path if (path / "run.json").is_file() else path.parent
    before = saved_config(folder) if folder is not None else None
    return {**config_document(before), "out": str(folder)} if before is not None else {}


def document(result: Any) -> dict[str, Any]:
    """The result as one JSON document."""
    score = result.score
    return {
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 3),
        "tokens_per_s": round(result.tokens_per_s, 1),
        "matmul_share": result.matmul_share,
        "loss": result.loss,
        "val_loss": score.loss if score else None,
        "perplexity": score.perplexity if score else None,
        "bits_per_byte": score.bits_per_byte if score else None,
        "interrupted": bool(result.exit_code),
    }
