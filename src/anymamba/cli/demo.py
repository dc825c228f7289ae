"""``anymamba demo``: from nothing to a trained model and a paragraph of its own, in less than three minutes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from anymamba.cli.options import number, seed
from anymamba.language import _, ngettext
from anymamba.printable import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=number(positive=True), default=1.75, metavar="M",
        help=_("most time for training [1.75]"),
    )  # fmt: skip
    parser.add_argument("--out", default="", metavar="DIR", help=_("run folder [runs/demo]"))
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=_("of the weights and the paragraph"))
    parser.add_argument("--json", action="store_true", help=_("print the result as JSON"))
    parser.add_argument("-q", "--quiet", action="store_true", help=_("no progress"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.training.run.demo import document, run_demo
    from anymamba.training.show.report import Reporter

    reporter = Reporter(quiet=arguments.quiet)
    demo = run_demo(_folder(arguments.out), arguments.minutes, "tiny", arguments.seed, reporter)
    if demo.result.exit_code:
        return demo.result.exit_code
    if arguments.json:
        print(json.dumps(document(demo), ensure_ascii=False))
        return 0
    score = demo.result.score
    ran = sorted({(op, backend) for op, names in demo.backends.items() for backend in names})
    width = max(len(op) for op, _ in ran)
    reporter.note(_("backends that ran (`anymamba backends` says why):"))
    for op, backend in ran:
        reporter.note(f"  {op:<{width}}  {backend}")
    one = demo.comparison
    ours, theirs, times = (f"{value:,.0f}" for value in (one.seconds * 1e3, one.sequential_seconds * 1e3, one.times_faster))
    reporter.note(
        _(
            "training speed {tokens_per_s:,.0f} tokens/s. The same model and the same {rows} rows of {length} tokens, "
            "forward and backward on one thread, medians of {repetitions}: {ours} ms with these kernels, {theirs} ms "
            "with plain PyTorch whose scan goes token by token. {times} times faster."
        ).format(
            tokens_per_s=demo.result.tokens_per_s,
            rows=one.rows,
            length=one.length,
            repetitions=one.repetitions,
            ours=ours,
            theirs=theirs,
            times=times,
        )
    )
    if score is not None and score.bits_per_byte is not None:
        reporter.note(
            ngettext(
                "held-out text: {bits_per_byte:.3f} bits per byte after {steps} step, {seconds:.0f} s in all",
                "held-out text: {bits_per_byte:.3f} bits per byte after {steps} steps, {seconds:.0f} s in all",
                demo.result.steps,
            ).format(bits_per_byte=score.bits_per_byte, steps=demo.result.steps, seconds=demo.seconds)
        )
    reporter.note(_("the model writes:\n"))
    print(shown(demo.paragraph, sys.stdout), flush=True)
    print(
        _("\nmore of it: ") + f'anymamba generate {demo.result.checkpoint} -p "The "',
        file=sys.stderr,
    )
    return 0


def _folder(named: str) -> Path:
    """The folder asked for, or the first of runs/demo, runs/demo-2, ... without a run in it."""
    if named:
        return Path(named).expanduser()
    number = 1
    while True:
        path = Path("runs") / ("demo" if number == 1 else f"demo-{number}")
        if not any(path.glob("step-*")):
            return path
        number += 1
