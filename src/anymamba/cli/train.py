"""``anymamba train``: a language model on your text, or one tuned on instructions."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.training.run.config import TrainConfig, add_flags, checked, given_flags, read_toml, refuse_ignored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _(
        "examples:\n"
        "  anymamba train book.txt                                   stage 1, a tiny byte-level model\n"
        "  anymamba train corpus/ --size 130m --train-tokenizer 16000 --max-minutes 60\n"
        "  anymamba train chats.jsonl --instruct --from runs/corpus-130m/step-001000\n"
        "  anymamba train --resume auto --out runs/book-tiny         after Ctrl-C or a crash\n"
        "  torchrun --nproc_per_node 2 -m anymamba train corpus/ --size 370m --shard"
    )
    parser.add_argument("--config", metavar="FILE", help=_("TOML file with these options; flags win"))
    parser.add_argument(
        "--resume",
        default="",
        metavar="auto|PATH",
        help=_("continue the run in --out (auto), or from a step folder"),
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help=_("only say what the run would take: memory, disk, time"),
    )
    parser.add_argument("--json", action="store_true", help=_("print the result as JSON"))
    parser.add_argument("-q", "--quiet", action="store_true", help=_("no progress"))
    add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    begin = time.perf_counter()
    config = resolve(arguments)
    from anymamba.training.loop.interrupt import Interrupt
    from anymamba.training.machine.parallel import Processes
    from anymamba.training.run.train import train
    from anymamba.training.show.report import Reporter

    processes = Processes(config.device)
    if arguments.plan:
        return _plan(config, arguments, processes)
    try:
        reporter = Reporter(quiet=arguments.quiet or not processes.main)
        result = train(config, arguments.resume, reporter, processes, Interrupt(_leave), begin)
    finally:
        processes.close()
    if processes.main:
        if arguments.json:
            print(json.dumps(document(result), ensure_ascii=False))
        else:
            print(result.checkpoint)
        if not arguments.quiet or result.exit_code:
            _say_next(config, result)
    return result.exit_code


def _plan(config: TrainConfig, arguments: argparse.Namespace, processes: Any) -> int:
    from anymamba.training.run.planning import planned, text

    if arguments.resume:
        raise AnymambaError(
            "usage",
            _("--plan looks at a new run"),
            fix=_("leave --resume out"),
        )
    try:
        plan = planned(config, processes)
    finally:
        processes.close()
    if processes.main:
        print(json.dumps(plan, ensure_ascii=False) if arguments.json else text(plan))
    return 0


def _say_next(config: TrainConfig, result: Any) -> None:
    """What can be done with the run now."""
    out = shell_word(str(result.checkpoint.parent))
    if result.exit_code:
        print(_("to go on: ") + f"anymamba train --resume auto --out {out}", file=sys.stderr)
        return
    if result.best is not None and result.best_step < result.steps:
        print(
            _("the best validation was at step {best_step}; its weights: {best}").format(
                best_step=result.best_step, best=result.best
            ),
            file=sys.stderr,
        )
    verb = "chat" if config.instruct else "generate"
    print(_("generate with it: ") + f"anymamba {verb} {shell_word(str(result.checkpoint))}", file=sys.stderr)


def shell_word(text: str) -> str:
    """A path as it is typed in this system's shell."""
    return subprocess.list2cmdline([text]) if os.name == "nt" else shlex.quote(text)


def _leave(number: int) -> None:
    """The second signal: at once, whatever is being computed. Checkpoints are whole, since each gets its name at the end."""
    print(_("\nstopped at once; the last checkpoint is whole"), file=sys.stderr, flush=True)
    os._exit(128 + number)


def resolve(arguments: argparse.Namespace) -> TrainConfig:
    """Flags over the TOML file; when a run is resumed, over what its run.json says."""
    flags = given_flags(arguments)
    values: dict[str, Any] = read_toml(arguments.config) if arguments.config else {}
    values.update(flags)
    refuse_ignored(values)
    if arguments.resume:
        values = {**_saved(arguments.resume, values), **values}
    return TrainConfig(**checked(values, "anymamba train"))


def _saved(resume: str, values: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the run that is continued: a run started with flags need not be given them again."""
    from anymamba.training.run.checkpoint import newest
    from anymamba.training.run.runfolder import config_document, saved_config

    folder = Path(values["out"]).expanduser() if values.get("out") else None
    if folder is None and resume != "auto":
        path = Path(resume).expanduser()
        folder = path if (path / "run.json").is_file() else path.parent
    before = saved_config(folder) if folder is not None else None
    if folder is None or before is None:
        return {}
    saved = {**config_document(before), "out": str(folder)}
    if "steps" in values or "epochs" in values:  # one takes the place of the other
        saved.update(steps=0, epochs=0.0)
    last = newest(folder) if resume == "auto" else None
    if last is not None and last.state.get("finished", last.state["step"] >= last.state["steps"]):
        saved["max_minutes"] = 0.0  # that time is over; another one must be named
    return saved


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
        "loss": result.loss if math.isfinite(result.loss) else None,
        "val_loss": score.loss if score else None,
        "perplexity": score.perplexity if score else None,
        "bits_per_byte": score.bits_per_byte if score else None,
        "best": str(result.best) if result.best else None,
        "best_step": result.best_step if result.best else None,
        "interrupted": bool(result.exit_code),
    }
