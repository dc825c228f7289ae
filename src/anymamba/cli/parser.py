"""The parser of the command line: argparse that speaks both languages, shows the verb's own usage and names what was probably meant."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, Iterable, List, NoReturn, Optional

from anymamba.language import N_, _
from anymamba.nearest import nearest

_SENTENCES = (
    (r"the following arguments are required: (.*)", N_("missing: {0}")),
    (r"argument (.*?): expected one argument", N_("{0} needs a value")),
    (r"argument (.*?): expected at least one argument", N_("{0} needs at least one value")),
    (r"argument (.*?): expected (\d+) arguments?", N_("{0} needs {1} values")),
    (r"argument (.*?): ignored explicit argument (.*)", N_("{0} takes no value, and got {1}")),
    (r"argument (.*?): not allowed with argument (.*)", N_("{0} and {1} do not go together")),
    (r"argument (.*?): invalid int value: (.*)", N_("{0} must be a whole number, not {1}")),
    (r"argument (.*?): invalid float value: (.*)", N_("{0} must be a number, not {1}")),
    (r"ambiguous option: (.*?) could match (.*)", N_("{0} may mean {1}")),
    (r"argument (.*?): (.*)", N_("{0}: {1}")),
)
"""argparse's sentences, and ours for them."""

_CHOICE = re.compile(r"argument (.*?): invalid choice: '?(.*?)'? \((?:choose from|maybe) .*\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """One verb's parser, or the one above all verbs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("add_help", False)  # its sentence is English only; ours follows
        super().__init__(*arguments, **options)
        self._positionals.title = _("arguments")
        self._optionals.title = _("options")
        self.add_argument("-h", "--help", action="help", help=_("show this and stop"))

    def format_usage(self) -> str:
        return super().format_usage().replace("usage: ", _("usage: "), 1)

    def format_help(self) -> str:
        return super().format_help().replace("usage: ", _("usage: "), 1)

    def error(self, message: str) -> NoReturn:
        """The usage of this verb and what is wrong, on stderr; the exit code is 2."""
        self.print_usage(sys.stderr)
        self.exit(2, "{}: {}\n".format(self.prog, self._sentence(message)))

    def refuse_unknown(self, words: Iterable[str]) -> None:
        """Ends the program when one of these words is an option that this verb does not have.

        It looks before argparse does, which would complain of a missing file first, or take the option's value for a file.
        """
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in words:
            if word == "--":
                return
            name = word.split("=", 1)[0]
            if name.startswith("--") and " " not in name and not any(flag.startswith(name) for flag in flags):
                self.unknown(name)

    def with_values(self, words: List[str]) -> List[str]:
        """The words of a command line in which an option whose number may be left out has one.

        ``--lora FILE`` names a file behind an option without a value; argparse would take the file for the value.
        """
        optional = {flag: a.const for flag, a in self._option_string_actions.items() if a.nargs == "?" and a.type in (int, float)}
        settled: List[str] = []
        for index, word in enumerate(words):
            following = words[index + 1] if index + 1 < len(words) else ""
            bare = word in optional and not re.fullmatch(r"[-+]?[0-9.]+", following)
            settled.append("{}={}".format(word, optional[word]) if bare else word)
        return settled

    def unknown(self, word: str) -> NoReturn:
        """Ends the program: there is no such option or argument."""
        if not word.startswith("-"):
            self.error(_("{word!r} is one argument too many").format(word=word))
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        suggestion = nearest(word, flags) if word.startswith("--") else None
        text = _("there is no option {word}").format(word=word)
        if suggestion:
            text += _("; the nearest is {near}").format(near=suggestion)
        self.error(text)

    def _sentence(self, message: str) -> str:
        match = _CHOICE.fullmatch(message)
        if match:
            return self._no_such_choice(*match.groups())
        for pattern, sentence in _SENTENCES:
            matched = re.fullmatch(pattern, message, re.DOTALL)
            if matched:
                return _(sentence).format(*matched.groups())
        return message

    def _no_such_choice(self, name: str, word: str) -> str:
        choices = self._choices(name)
        suggestion = nearest(word, choices)
        text = _("{name}: there is no {word!r}").format(name=name, word=word)
        if suggestion:
            text += _("; the nearest is {near!r}").format(near=suggestion)
        return text + _("; there are: ") + ", ".join(choices)

    def _choices(self, name: str) -> List[str]:
        for action in self._actions:
            names: Optional[str] = "/".join(action.option_strings) or action.metavar or action.dest  # type: ignore[assignment]
            if action.choices is not None and name == names:
                return [str(choice) for choice in action.choices]
        return []
