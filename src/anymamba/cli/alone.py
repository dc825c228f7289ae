"""The doctor as a program of its own, for a machine on which nothing else of anymamba is, or works: the distribution anymamba-doctor.

``anymamba-doctor LOG`` is ``anymamba doctor LOG``. scripts/build_doctor.py makes the wheel and the single file from these sources.
"""

from __future__ import annotations

import sys
from typing import List, Optional

from anymamba import cli
from anymamba.cli import doctor
from anymamba.cli.parser import Parser
from anymamba.language import _
from anymamba.version import __version__


def main(argv: Optional[List[str]] = None) -> int:
    """0 healthy, 1 something was found, 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    cli._use_utf8()
    cli._choose_language(words)
    parser = Parser(
        prog="anymamba-doctor",
        description=_(
            "Why mamba-ssm or causal-conv1d would not install or run, and what to do. The same as `anymamba doctor`, "
            "without the rest."
        ),
    )
    parser.add_argument("--version", action="version", version="anymamba-doctor " + __version__)
    cli._common(parser)
    doctor.add_arguments(parser)
    try:
        parser.refuse_unknown(words)
        parsed, unknown = parser.parse_known_args(words)
        if unknown:
            parser.unknown(next((word for word in unknown if word.startswith("-")), unknown[0]))
    except SystemExit as ended:  # argparse's way to say that --help was shown (0) or that the usage was wrong (2)
        return int(ended.code or 0)
    return cli.guarded("doctor", lambda: doctor.run(parsed), getattr(parsed, "debug", False))


if __name__ == "__main__":
    sys.exit(main())
