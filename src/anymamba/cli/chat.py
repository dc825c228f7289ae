"""anymamba chat MODEL: a conversation with an instruction-tuned model."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from anymamba.cli.model_options import add_model_arguments, add_sampling_arguments, load_model, sampling_of
from anymamba.errors import AnymambaError
from anymamba.language import say

if TYPE_CHECKING:
    from anymamba.generation.chat import Chat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--system", metavar="TEXT", help=say("instructions before the conversation", "对话前的系统指令")
    )
    add_sampling_arguments(parser, max_tokens=512)
    parser.add_argument("--confidence", action="store_true", help=say("mark improbable tokens", "标出低概率词元"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.generation.chat import Chat

    sampling = sampling_of(arguments)
    model, tokenizer = load_model(arguments)
    chat = Chat(model, tokenizer, arguments.system)
    tokenizer.render_chat(
        [{"role": "user", "content": ""}]
    )  # a model without a chat template is refused before the first question
    print(
        say("/help lists the commands; an empty line or /quit ends", "/help 查看命令；空行或 /quit 结束"),
        file=sys.stderr,
    )
    while True:
        line = _ask()
        if line is None or line in ("", "/quit", "/exit"):
            return 0
        if line.startswith("/"):
            _command(chat, line)
        else:
            _answer(chat, line, arguments, sampling)


def _ask() -> str | None:
    """The next line; None at the end of the input."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def _answer(chat: Chat, question: str, arguments: argparse.Namespace, sampling: object) -> None:
    from anymamba.cli.confidence import Marker
    from anymamba.generation.sampling import Sampling

    assert isinstance(sampling, Sampling)
    marker = Marker(sys.stdout, marking=arguments.confidence)
    for piece in chat.reply(question, arguments.max_tokens, sampling, arguments.stop, arguments.confidence):
        marker.write(piece)
    marker.finish()


def _command(chat: Chat, line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "/reset":
        chat.reset()
        print(say("a new conversation", "新的对话"), file=sys.stderr)
    elif word == "/save" and rest:
        try:
            chat.save(rest)
        except OSError as error:
            raise AnymambaError("state", say(f"cannot write {rest}", f"无法写入 {rest}"), why=str(error)) from error
        print(say(f"saved to {rest}", f"已保存到 {rest}"), file=sys.stderr)
    else:
        print(
            say(
                "/reset forgets; /save FILE writes the conversation; /quit ends",
                "/reset 清空对话；/save 文件 保存对话；/quit 结束",
            ),
            file=sys.stderr,
        )
