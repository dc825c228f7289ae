"""The command line: one file a verb, imported when that verb is called. Standard library only, so that --help is quick.

A verb's module has ``add_arguments(parser)`` and ``run(arguments) -> int`` (the exit code).
Exit codes: 0 fine, 1 failed or problems found, 2 usage (``AnymambaError.exit_code``), 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Callable, List, Optional, Tuple

from anymamba import __version__
from anymamba.cli.parser import Parser
from anymamba.errors import AnymambaError
from anymamba.language import LANGUAGES, say, set_language

VERBS = {
    "demo": (
        "train a small model on text that every machine has, and generate with it",
        "用每台机器上都有的文本训练一个小模型并生成文字",
    ),
    "train": (
        "train a language model on your text, or tune one on instructions",
        "用你的文本训练语言模型，或做指令微调",
    ),
    "generate": ("continue a prompt", "续写一段提示"),
    "chat": ("talk with an instruction-tuned model", "与指令微调后的模型对话"),
    "eval": ("perplexity and bits per byte of a file", "计算文件的困惑度与每字节比特数"),
    "sizes": (
        "the model sizes, their parameters, and the memory to run and to train them",
        "各模型规模的参数量，以及运行与训练所需内存",
    ),
    "plot": ("draw the loss curves of runs", "绘制训练损失曲线"),
    "backends": ("which backend computes what here, and why", "本机上每个算子由哪个后端计算，以及原因"),
    "bench": ("speed of this machine against the alternatives", "本机速度与其他实现的对比"),
    "verify": ("how far backends drift from the exact result", "各后端与精确结果的偏差"),
    "doctor": ("why mamba-ssm would not install, and the fix", "诊断 mamba-ssm 为何装不上，并给出解决办法"),
    "install": ("build the official packages safely", "安全地构建并安装官方包"),
    "uninstall": ("remove what install added", "移除 install 添加的内容"),
    "dropin": ("let code written for mamba_ssm run on anymamba", "让为 mamba_ssm 编写的代码在 anymamba 上运行"),
    "run": ("run an unmodified program with the drop-in", "以替身模块运行未修改的程序"),
}


def main(argv: Optional[List[str]] = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _use_utf8()
    _choose_language(arguments)
    verb = _verb(arguments)
    parser, child = _parsers(verb)
    try:
        parsed = _parsed(parser, child, verb, arguments)
    except SystemExit as ended:  # argparse's way to say that --help was shown (0) or that the usage was wrong (2)
        return int(ended.code or 0)
    if not parsed.verb:
        parser.print_help()
        return 2
    module = importlib.import_module("anymamba.cli." + parsed.verb)
    return guarded(parsed.verb, lambda: int(module.run(parsed)), getattr(parsed, "debug", False))


def guarded(verb: str, run: Callable[[], int], debug: bool) -> int:
    """The exit code of a verb; what it raises becomes a message, unless debug asks for the traceback."""
    try:
        return run()
    except KeyboardInterrupt:
        print(say("interrupted", "已中断"), file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output (head, less) has gone; that is its right
        sys.stderr.close()
        return 0
    except AnymambaError as error:
        if debug:
            raise
        print("anymamba {}: {}".format(verb, error), file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        print(
            "anymamba {}: {}: {}\n{}".format(
                verb,
                type(error).__name__,
                error,
                say(
                    "this is a bug of anymamba; run again with --debug and report what it prints",
                    "这是 anymamba 的错误；请加 --debug 重新运行并报告其输出",
                ),
            ),
            file=sys.stderr,
        )
        return 1


def _verb(arguments: List[str]) -> Optional[str]:
    """The verb of this command line: only its module is imported."""
    for index, word in enumerate(arguments):
        if word in VERBS and arguments[index - 1 : index] != ["--lang"]:
            return word
    return None


def _parsed(parser: Parser, child: Optional[Parser], verb: Optional[str], arguments: List[str]) -> argparse.Namespace:
    """The arguments by name; raises SystemExit with 2 and the verb's own usage for what it does not know."""
    if child is not None and verb is not None:
        words = arguments[arguments.index(verb) + 1 :]
        if verb == "run":  # what follows the program belongs to the program
            words = words[: next((i for i, word in enumerate(words) if not word.startswith("--")), len(words))]
        child.refuse_unknown(words)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        (child or parser).unknown(next((word for word in unknown if word.startswith("-")), unknown[0]))
    return parsed


def _use_utf8() -> None:
    # a Windows console or a C locale would turn Chinese text and box characters into an exception
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _choose_language(arguments: List[str]) -> None:
    """--lang must act before the parser is built: the help texts depend on it."""
    for index, word in enumerate(arguments):
        value = word[7:] if word.startswith("--lang=") else None
        if word == "--lang" and index + 1 < len(arguments):
            value = arguments[index + 1]
        if value in LANGUAGES:
            set_language(value)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lang", choices=LANGUAGES, default=argparse.SUPPRESS, help=say("language of all output", "输出语言")
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help=say("show the traceback of an error", "出错时显示完整回溯"),
    )


def _parsers(only: Optional[str]) -> Tuple[Parser, Optional[Parser]]:
    """The parser of all verbs, and that of the verb of this command line, which alone has its arguments."""
    parser = Parser(
        prog="anymamba",
        description=say(
            "Mamba on any machine: train, run and measure Mamba language models without a compiler.",
            "在任何机器上使用 Mamba：无需编译器即可训练、运行和测量 Mamba 语言模型。",
        ),
        epilog=say(
            "`anymamba VERB --help` explains a verb; start with `anymamba demo`.",
            "`anymamba 命令 --help` 查看用法；可从 `anymamba demo` 开始。",
        ),
    )
    parser.add_argument("--version", action="version", version="anymamba " + __version__)
    _common(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    chosen: Optional[Parser] = None
    for name, (en, zh) in VERBS.items():
        child = verbs.add_parser(name, help=say(en, zh), description=say(en, zh))
        if name == only:
            _common(child)
            importlib.import_module("anymamba.cli." + name).add_arguments(child)
            chosen = child
    return parser, chosen
