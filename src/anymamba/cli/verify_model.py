"""anymamba verify MODEL --against A B: what two ways of computing the same model do with the same text."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext

if TYPE_CHECKING:
    import torch

    from anymamba.models.lm import LanguageModel
    from anymamba.models.tokenizer import Tokenizer
    from anymamba.numerics.drift import Divergence, Drift
    from anymamba.numerics.sides import Side
    from anymamba.training.show.axes import Axes


def run(arguments: argparse.Namespace, device: torch.device, dtypes: list[torch.dtype]) -> int:
    """1: the two sides differ by more than rounding explains."""
    import torch

    from anymamba.backends import machine
    from anymamba.models import hub
    from anymamba.numerics import drift, sides
    from anymamba.numerics.document import finite

    if len(dtypes) > 2:
        raise AnymambaError("usage", _("--dtype takes one dtype, or two: A,B"))
    one, other = (dtypes * 2)[:2] if dtypes else (None, None)
    a, b = sides.parse_side(arguments.against[0], one), sides.parse_side(arguments.against[1], other)
    sides.check_pair(a, b)
    if arguments.plot:
        _check_plot(Path(arguments.plot))
    folder = hub.find(arguments.model)
    model = hub.load(folder, device=device, a_activation=arguments.a_activation)
    started = time.perf_counter()
    measured = drift.teacher_forced(
        model, a, b, _text(arguments, model, folder), arguments.tokens, None if arguments.json else _show_progress(arguments.tokens)
    )
    divergence = None
    if arguments.greedy > 0:
        divergence = drift.greedy(model, a, b, torch.zeros(1, dtype=torch.long), arguments.greedy)
    seconds = time.perf_counter() - started
    ok, words = drift.verdict(measured, divergence, _rounding(model, a, b))
    if arguments.plot:
        _plot(measured, Path(arguments.plot))
    if arguments.json:
        document = {
            "machine": machine.facts(), "device": str(device), "model": arguments.model, "model_type": model.config.model_type,
            "seconds": round(seconds, 1), "teacher_forced": measured.as_dict(), "greedy": finite(vars(divergence)) if divergence else None,
            "ok": ok, "verdict": words,
        }  # fmt: skip
        json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        _print(measured, divergence, words, _tokenizer(folder), arguments.verbose)
    return int(not ok)


def _show_progress(tokens: int) -> Callable[[int], None] | None:
    if not sys.stderr.isatty():
        print(
            ngettext("reading {tokens} token on both sides", "reading {tokens} tokens on both sides", tokens).format(
                tokens=tokens
            ),
            file=sys.stderr,
        )
        return None
    return lambda read: print(
        "\r" + _("read {read} of {tokens} tokens").format(read=read, tokens=tokens),
        end="\n" if read >= tokens else "",
        file=sys.stderr,
        flush=True,
    )


def _text(arguments: argparse.Namespace, model: LanguageModel, folder: Path) -> Iterator[torch.Tensor]:
    import torch

    from anymamba.models.tokenizer import load_tokenizer
    from anymamba.numerics import drift

    if not arguments.text:
        return drift.sampled_text(model)
    try:
        text = Path(arguments.text).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnymambaError("data", _("cannot read {file}").format(file=arguments.text), why=str(error)) from error
    ids = load_tokenizer(folder).encode(text)
    if not ids:
        raise AnymambaError("data", _("{file} is empty").format(file=arguments.text))
    if len(ids) < arguments.tokens:
        print(
            ngettext(
                "{file} has {count} token, fewer than {tokens}",
                "{file} has {count} tokens, fewer than {tokens}",
                len(ids),
            ).format(file=arguments.text, count=len(ids), tokens=arguments.tokens),
            file=sys.stderr,
        )
    return drift.pieces_of(torch.tensor(ids))


def _tokenizer(folder: Path) -> Tokenizer | None:
    """The model's, to show tokens as text; a checkpoint without one is compared all the same."""
    from anymamba.models.tokenizer import load_tokenizer

    try:
        return load_tokenizer(folder)
    except AnymambaError:
        return None


def _rounding(model: LanguageModel, a: Side, b: Side) -> float:
    """Unit roundoff of the coarser of the two sides."""
    import torch

    kinds = [kind for side in (a, b) for kind in (side.dtype or model.dtype, side.state_dtype) if kind is not None]
    return max(torch.finfo(kind).eps for kind in kinds) / 2


def _print(measured: Drift, divergence: Divergence | None, words: str, tokenizer: Tokenizer | None, verbose: bool) -> None:
    print(_chart(measured, "logit_difference", _("largest difference of a logit, over position")), end="")
    if verbose:
        print(_chart(measured, "kl", _("KL divergence (nats), over position")), end="")
        print(_chart(measured, "state_norm", _("norm of the recurrent state, over position")), end="")
    error = measured.slope_error
    spread = "" if error is None else f" ± {2 * error:.1g}"
    print(
        _(
            "{tokens} tokens: logits differ by at most {largest:.2g} (their scale is {logit_scale:.2g}), mean KL "
            "{mean_kl:.2g} nats, {disagreements} other likeliest tokens, change over the text {slope:+.2g}{spread}"
        ).format(
            tokens=measured.tokens,
            largest=measured.largest,
            logit_scale=measured.logit_scale,
            mean_kl=measured.mean_kl,
            disagreements=measured.disagreements,
            slope=measured.slope,
            spread=spread,
        )
    )
    if measured.grows:
        print(_("the difference grows with position"))
    last = measured.windows[-1] if measured.windows else None
    if last is not None and last.state_norm is not None and last.state_difference is not None:
        print(
            _(
                "recurrent state: norm {state_norm:.3g}, the sides differ by {state_difference:.2g} of it at the end"
            ).format(state_norm=last.state_norm, state_difference=last.state_difference)
        )
    if divergence is not None:
        print(_greedy_line(divergence, tokenizer))
    print(words)


def _greedy_line(divergence: Divergence, tokenizer: Tokenizer | None) -> str:
    if divergence.position is None:
        return ngettext(
            "greedy: the same {tokens} token", "greedy: the same {tokens} tokens", divergence.tokens
        ).format(tokens=divergence.tokens)
    assert divergence.token_a is not None and divergence.token_b is not None
    tokens = [str(i) if tokenizer is None else repr(tokenizer.decode([i])) for i in (divergence.token_a, divergence.token_b)]
    return _(
        "greedy: the first other token is number {position}: {first} (ahead by {margin_a:.2g}) against {second} "
        "(ahead by {margin_b:.2g})"
    ).format(
        position=divergence.position,
        first=tokens[0],
        margin_a=divergence.margin_a,
        second=tokens[1],
        margin_b=divergence.margin_b,
    )


def _chart(measured: Drift, what: str, title: str) -> str:
    from anymamba.training.show.chart import chart

    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    points = [(float(w.position), getattr(w, what)) for w in measured.windows if getattr(w, what) is not None]
    if len(points) < 2:
        return ""
    return title + "\n" + chart([(f"{measured.a} / {measured.b}", points)], ascii_only=plain) + "\n"


def _check_plot(target: Path) -> None:
    """Before the long work, not after it."""
    from anymamba.cli.plot import check_target

    check_target(target)
    if not target.parent.is_dir():
        raise AnymambaError("usage", _("there is no folder {folder}").format(folder=target.parent))


def _plot(measured: Drift, target: Path) -> None:
    from anymamba.cli.plot import write

    if not any(w.logit_difference > 0 for w in measured.windows):
        print(_("nothing to plot: the sides are identical"), file=sys.stderr)
        return
    write(lambda: _axes(measured), target)


def _axes(measured: Drift) -> Axes:
    from anymamba.training.show.axes import COLOURS, Axes, Curve

    names = {
        "logit_difference": _("largest logit difference"),
        "state_difference": _("state difference, relative"),
        "kl": _("KL divergence"),
        "state_norm": _("norm of the state"),
    }
    curves = []
    for colour, (name, label) in zip(COLOURS, names.items()):
        points = [(float(w.position), value) for w in measured.windows if (value := getattr(w, name)) is not None and value > 0]
        if points:
            curves.append(Curve(label, colour, points))
    return Axes(curves, _("tokens"), f"{measured.a} / {measured.b}", log_y=True)
