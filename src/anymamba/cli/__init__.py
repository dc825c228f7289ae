"""The command line: one file a verb, imported when that verb is called. Standard library only, so that --help is quick.

A verb's module has ``add_arguments(parser)`` and ``run(arguments) -> int`` (the exit code).
Exit codes: 0 fine, 1 failed or problems found, 2 usage (``AnymambaError.exit_code``), 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import sys
from typing import Callable, Iterator, List, Optional, Tuple

from anymamba.cli.parser import Parser
from anymamba.errors import AnymambaError
from anymamba.language import LANGUAGES, N_, _, set_language
from anymamba.version import __version__

VERBS = {
    "demo": N_("train a small model on text that every machine has, and generate with it"),
    "train": N_("train a language model on your text, or tune one on instructions"),
    "generate": N_("continue a prompt"),
    "chat": N_("talk with an instruction-tuned model"),
    "eval": N_("perplexity and bits per byte of a file"),
    "merge": N_("merge an adapter into its base model"),
    "quantize": N_("write a folder with weights in eight or four bits"),
    "export": N_("write a GGUF file for llama.cpp"),
    "sizes": N_("the model sizes, their parameters, and the memory to run and to train them"),
    "plot": N_("draw the loss curves of runs"),
    "backends": N_("which backend computes what here, and why"),
    "bench": N_("speed of this machine against the alternatives"),
    "verify": N_("how far backends drift from the exact result"),
    "doctor": N_("why mamba-ssm would not install, and the fix"),
    "install": N_("build the official packages safely"),
    "uninstall": N_("remove what install added"),
    "dropin": N_("let code written for mamba_ssm run on anymamba"),
    "run": N_("run an unmodified program with the drop-in"),
}


def main(argv: Optional[List[str]] = None) -> int:
    """Runs one verb and returns the exit code. argv: None where the process is this command and nothing else."""
    if argv is not None:
        return _main(argv)
    try:
        return _main(sys.argv[1:])
    finally:
        if _verb(sys.argv[1:]) == "generate" and "triton" not in sys.modules:
            # To look through torch's objects for garbage, which end with the process anyway, takes half a second. Triton's have to be
            # collected: the library that binds them says on stderr what it takes for leaks.
            gc.freeze()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For imports of large libraries: what they make stays, and to look through it for garbage as it grows takes a tenth of their time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _main(arguments: List[str]) -> int:
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
        print(_("interrupted"), file=sys.stderr)
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
                _("this is a bug of anymamba; run again with --debug and report what it prints"),
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
        arguments = child.with_values(arguments)
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
    parser.add_argument("--lang", choices=LANGUAGES, default=argparse.SUPPRESS, help=_("language of all output"))
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help=_("show the traceback of an error"),
    )


def _parsers(only: Optional[str]) -> Tuple[Parser, Optional[Parser]]:
    """The parser of all verbs, and that of the verb of this command line, which alone has its arguments."""
    parser = Parser(
        prog="anymamba",
        description=_("Mamba on any machine: train, run and measure Mamba language models without a compiler."),
        epilog=_("`anymamba VERB --help` explains a verb; start with `anymamba demo`."),
    )
    parser.add_argument("--version", action="version", version="anymamba " + __version__)
    _common(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    chosen: Optional[Parser] = None
    for name, about in VERBS.items():
        child = verbs.add_parser(name, help=_(about), description=_(about))
        if name == only:
            _common(child)
            importlib.import_module("anymamba.cli." + name).add_arguments(child)
            chosen = child
    return parser, chosen
