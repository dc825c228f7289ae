"""The parser of the command line: argparse that speaks both languages, shows the verb's own usage and names what was probably meant."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, Iterable, List, NoReturn, Optional

from anymamba.language import say
from anymamba.nearest import nearest

_SENTENCES = (
    (r"the following arguments are required: (.*)", "missing: {0}", "缺少参数：{0}"),
    (r"argument (.*?): expected one argument", "{0} needs a value", "{0} 需要一个值"),
    (r"argument (.*?): expected at least one argument", "{0} needs at least one value", "{0} 至少需要一个值"),
    (r"argument (.*?): expected (\d+) arguments?", "{0} needs {1} values", "{0} 需要 {1} 个值"),
    (r"argument (.*?): ignored explicit argument (.*)", "{0} takes no value, and got {1}", "{0} 不接受值，却得到 {1}"),
    (r"argument (.*?): not allowed with argument (.*)", "{0} and {1} do not go together", "{0} 与 {1} 不能同用"),
    (r"argument (.*?): invalid int value: (.*)", "{0} must be a whole number, not {1}", "{0} 应为整数，而不是 {1}"),
    (r"argument (.*?): invalid float value: (.*)", "{0} must be a number, not {1}", "{0} 应为数字，而不是 {1}"),
    (r"ambiguous option: (.*?) could match (.*)", "{0} may mean {1}", "{0} 可能指 {1}"),
    (r"argument (.*?): (.*)", "{0}: {1}", "{0}：{1}"),
)
"""argparse's sentences, which exist in English only, in both languages."""

_CHOICE = re.compile(r"argument (.*?): invalid choice: '?(.*?)'? \((?:choose from|maybe) .*\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """One verb's parser, or the one above all verbs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("add_help", False)  # its sentence is English only; ours follows
        super().__init__(*arguments, **options)
        self._positionals.title = say("arguments", "参数")
        self._optionals.title = say("options", "选项")
        self.add_argument("-h", "--help", action="help", help=say("show this and stop", "显示本帮助并退出"))

    def format_usage(self) -> str:
        return super().format_usage().replace("usage: ", say("usage: ", "用法："), 1)

    def format_help(self) -> str:
        return super().format_help().replace("usage: ", say("usage: ", "用法："), 1)

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

    def unknown(self, word: str) -> NoReturn:
        """Ends the program: there is no such option or argument."""
        if not word.startswith("-"):
            self.error(say("{!r} is one argument too many", "多出了参数 {!r}").format(word))
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        near = nearest(word, flags) if word.startswith("--") else None
        text = say("there is no option {}", "没有选项 {}").format(word)
        if near:
            text += say("; the nearest is {}", "；最接近的是 {}").format(near)
        self.error(text)

    def _sentence(self, message: str) -> str:
        chosen = _CHOICE.fullmatch(message)
        if chosen:
            return self._no_such_choice(*chosen.groups())
        for pattern, en, zh in _SENTENCES:
            matched = re.fullmatch(pattern, message, re.DOTALL)
            if matched:
                return say(en, zh).format(*matched.groups())
        return message

    def _no_such_choice(self, name: str, word: str) -> str:
        choices = self._choices(name)
        near = nearest(word, choices)
        text = say("{}: there is no {!r}", "{}：没有 {!r}").format(name, word)
        if near:
            text += say("; the nearest is {!r}", "；最接近的是 {!r}").format(near)
        return text + say("; there are: ", "；可选：") + ", ".join(choices)

    def _choices(self, name: str) -> List[str]:
        for action in self._actions:
            names: Optional[str] = "/".join(action.option_strings) or action.metavar or action.dest  # type: ignore[assignment]
            if action.choices is not None and name == names:
                return [str(choice) for choice in action.choices]
        return []
