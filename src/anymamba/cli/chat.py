"""anymamba chat MODEL: a conversation with an instruction-tuned model."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from anymamba.cli import terminal
from anymamba.cli.model_options import add_model_arguments, add_sampling_arguments, load_model, sampling_of
from anymamba.cli.standard_input import read_line
from anymamba.errors import AnymambaError
from anymamba.language import say

if TYPE_CHECKING:
    from anymamba.generation.sampling import Sampling

LEAVE = ("/exit", "/quit")
COMMANDS = (*LEAVE, "/help", "/reset", "/save", "/load")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--system", metavar="TEXT", help=say("instructions before the conversation", "对话前的系统指令")
    )
    add_sampling_arguments(parser, max_tokens=512)
    parser.add_argument("--confidence", action="store_true", help=say("mark improbable tokens", "标出低概率词元"))


def run(arguments: argparse.Namespace) -> int:
    sampling = sampling_of(arguments)
    if not terminal.is_terminal():
        return _Talk(arguments, sampling).run(read_line)
    with terminal.held():
        return _TerminalTalk(arguments, sampling).run_in_terminal()


class _Talk:
    """A conversation whose questions come line by line, from a file or a program."""

    def __init__(self, arguments: argparse.Namespace, sampling: Sampling) -> None:
        from anymamba.generation.chat import Chat

        model, tokenizer = load_model(arguments)
        self.arguments, self.sampling = arguments, sampling
        self.chat = Chat(model, tokenizer, arguments.system)
        # a model without a chat template is refused before the first question
        tokenizer.render_chat([{"role": "user", "content": ""}])

    def run(self, ask: Callable[[], str | None]) -> int:
        """Until the input ends or asks to leave. A line that begins with a known command's name or looks like one is a command."""
        while True:
            line = ask()
            if line is None:
                return 0
            question = line.strip()
            if not question:
                continue
            if question in LEAVE:
                return 0
            if _is_command(question):
                self.command(question)
            else:
                self.answer(question)

    def answer(self, question: str, stopped: Callable[[], bool] = lambda: False) -> None:
        from anymamba.cli.confidence import Marker

        arguments = self.arguments
        marker = Marker(sys.stdout, marking=arguments.confidence)
        for piece in self.chat.reply(
            question, arguments.max_tokens, self.sampling, arguments.stop, arguments.confidence, stopped
        ):
            marker.write(piece)
        marker.finish()

    def command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "/reset":
            self.chat.reset()
            _tell(say("a new conversation", "新的对话"))
        elif word == "/save" and rest:
            self.chat.save(rest)
            _tell(say(f"saved to {rest}", f"已保存到 {rest}"))
        elif word == "/load" and rest:
            self.chat.load(rest)
            count = len(self.chat.messages)
            _tell(say(f"{rest}: a conversation of {count} messages goes on", f"{rest}：继续含 {count} 条消息的对话"))
        else:
            if word not in COMMANDS:
                _tell(say(f"there is no command {word}", f"没有命令 {word}"))
            _tell(
                say(
                    "/reset forgets; /save FILE writes the conversation, /load FILE goes on with one; /exit ends",
                    "/reset 清空对话；/save 文件 保存对话，/load 文件 继续已保存的对话；/exit 结束",
                )
            )


class _TerminalTalk(_Talk):
    """With somebody at the keyboard: nothing but /exit and Ctrl-D ends it, not Ctrl-C, not an error, not an empty line."""

    def run_in_terminal(self) -> int:
        self.questions = terminal.Questions()
        _tell(
            say(
                "/help lists the commands; /exit or Ctrl-D ends, Ctrl-C stops an answer, Alt-Enter begins a new line",
                "/help 查看命令；/exit 或 Ctrl-D 结束，Ctrl-C 停止回答，Alt-Enter 换行",
            )
        )
        while True:
            try:
                return self.run(self.questions.ask)
            except KeyboardInterrupt:
                _tell(say("(/exit or Ctrl-D ends)", "（/exit 或 Ctrl-D 结束）"))
            except AnymambaError as error:
                _tell(str(error))
            except Exception as error:
                if getattr(self.arguments, "debug", False):
                    raise
                _tell(f"{type(error).__name__}: {error}")
                _tell(
                    say(
                        "this is a bug of anymamba; the conversation is still here: /save FILE, then --debug shows more",
                        "这是 anymamba 的错误；对话仍在：请用 /save 文件 保存，再加 --debug 查看详情",
                    )
                )

    def answer(self, question: str, _: Callable[[], bool] = lambda: False) -> None:
        before = len(self.chat.messages)
        with self.questions.answering() as stopped:
            try:
                super().answer(question, stopped)
            except KeyboardInterrupt:
                print(flush=True)
            if not stopped():
                return
        if len(self.chat.messages) == before:
            _tell(say("-- stopped: the question was not read; the conversation is as before it", "-- 已停止：未读完问题；对话保持不变"))
        else:
            _tell(say("-- stopped: the conversation goes on", "-- 已停止：对话可以继续"))

    def command(self, line: str) -> None:
        super().command(line)
        if line.startswith("/load "):
            for message in self.chat.messages:
                if message["role"] == "user":
                    self.questions.remember(message["content"])


def _is_command(question: str) -> bool:
    """/word, alone or with something behind it, in one line. A path or a pasted text that begins with a slash is a question."""
    return re.fullmatch(r"/[a-z]+( [^\n]*)?", question) is not None


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
