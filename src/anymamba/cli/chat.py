"""anymamba chat MODEL: a conversation with an instruction-tuned model."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from anymamba.cli.model_options import add_model_arguments, add_sampling_arguments, load_model, sampling_of
from anymamba.cli.terminal import conversation
from anymamba.cli.terminal.standard_input import read_line
from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext

if TYPE_CHECKING:
    from anymamba.generation.sampling import Sampling

LEAVE = ("/exit", "/quit")
COMMANDS = (*LEAVE, "/help", "/reset", "/save", "/load")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help=_("instructions before the conversation"))
    add_sampling_arguments(parser, max_tokens=512)
    parser.add_argument("--confidence", action="store_true", help=_("mark improbable tokens"))


def run(arguments: argparse.Namespace) -> int:
    sampling = sampling_of(arguments)
    if not conversation.is_terminal():
        return _Talk(arguments, sampling).run(read_line)
    with conversation.held():
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
        from anymamba.cli.terminal.confidence import Marker

        arguments = self.arguments
        marker = Marker(sys.stdout, marking=arguments.confidence)
        for piece in self.chat.reply(
            question, arguments.max_tokens, self.sampling, arguments.stop, arguments.confidence, stopped
        ):
            marker.write(piece)
        marker.finish()

    def command(self, line: str) -> None:
        word, __, rest = line.partition(" ")
        rest = rest.strip()
        if word == "/reset":
            self.chat.reset()
            _tell(_("a new conversation"))
        elif word == "/save" and rest:
            self.chat.save(rest)
            _tell(_("saved to {rest}").format(rest=rest))
        elif word == "/load" and rest:
            self.chat.load(rest)
            count = len(self.chat.messages)
            _tell(
                ngettext(
                    "{rest}: a conversation of {count} message goes on",
                    "{rest}: a conversation of {count} messages goes on",
                    count,
                ).format(rest=rest, count=count)
            )
        else:
            if word not in COMMANDS:
                _tell(_("there is no command {word}").format(word=word))
            _tell(_("/reset forgets; /save FILE writes the conversation, /load FILE goes on with one; /exit ends"))


class _TerminalTalk(_Talk):
    """With somebody at the keyboard: nothing but /exit and Ctrl-D ends it, not Ctrl-C, not an error, not an empty line."""

    def run_in_terminal(self) -> int:
        self.questions = conversation.Questions()
        _tell(_("/help lists the commands; /exit or Ctrl-D ends, Ctrl-C stops an answer, Alt-Enter begins a new line"))
        while True:
            try:
                return self.run(self.questions.ask)
            except KeyboardInterrupt:
                _tell(_("(/exit or Ctrl-D ends)"))
            except AnymambaError as error:
                _tell(str(error))
            except Exception as error:
                if getattr(self.arguments, "debug", False):
                    raise
                _tell(f"{type(error).__name__}: {error}")
                _tell(
                    _("this is a bug of anymamba; the conversation is still here: /save FILE, then --debug shows more")
                )

    def answer(self, question: str, __: Callable[[], bool] = lambda: False) -> None:
        before = len(self.chat.messages)
        with self.questions.answering() as stopped:
            try:
                super().answer(question, stopped)
            except KeyboardInterrupt:
                print(flush=True)
            if not stopped():
                return
        if len(self.chat.messages) == before:
            _tell(_("-- stopped: the question was not read; the conversation is as before it"))
        else:
            _tell(_("-- stopped: the conversation goes on"))

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
