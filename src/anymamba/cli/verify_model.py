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
from anymamba.language import say

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
        raise AnymambaError("usage", say("--dtype takes one dtype, or two: A,B", "--dtype 接受一个或两个数据类型：A,B"))
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
        print(say(f"reading {tokens} tokens on both sides", f"两侧各读取 {tokens} 个词元"), file=sys.stderr)
        return None
    return lambda read: print(
        "\r" + say(f"read {read} of {tokens} tokens", f"已读取 {read} / {tokens} 个词元"),
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
        raise AnymambaError(
            "data", say(f"cannot read {arguments.text}", f"无法读取 {arguments.text}"), why=str(error)
        ) from error
    ids = load_tokenizer(folder).encode(text)
    if not ids:
        raise AnymambaError("data", say(f"{arguments.text} is empty", f"{arguments.text} 为空"))
    if len(ids) < arguments.tokens:
        print(
            say(
                f"{arguments.text} has {len(ids)} tokens, fewer than {arguments.tokens}",
                f"{arguments.text} 只有 {len(ids)} 个词元，少于 {arguments.tokens}",
            ),
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
    print(_chart(measured, "logit_difference", say("largest difference of a logit, over position", "logit 最大差异随位置的变化")), end="")
    if verbose:
        print(_chart(measured, "kl", say("KL divergence (nats), over position", "KL 散度（奈特）随位置的变化")), end="")
        print(_chart(measured, "state_norm", say("norm of the recurrent state, over position", "循环状态的范数随位置的变化")), end="")
    error = measured.slope_error
    spread = "" if error is None else f" ± {2 * error:.1g}"
    print(
        say(
            f"{measured.tokens} tokens: logits differ by at most {measured.largest:.2g} (their scale is {measured.logit_scale:.2g}), "
            f"mean KL {measured.mean_kl:.2g} nats, {measured.disagreements} other likeliest tokens, "
            f"change over the text {measured.slope:+.2g}{spread}",
            f"{measured.tokens} 个词元：logits 最多相差 {measured.largest:.2g}（其尺度为 {measured.logit_scale:.2g}），"
            f"平均 KL {measured.mean_kl:.2g} 奈特，最可能词元不同 {measured.disagreements} 处，随文本变化 {measured.slope:+.2g}{spread}",
        )
    )
    if measured.grows:
        print(say("the difference grows with position", "差异随位置增长"))
    last = measured.windows[-1] if measured.windows else None
    if last is not None and last.state_norm is not None and last.state_difference is not None:
        print(
            say(
                f"recurrent state: norm {last.state_norm:.3g}, the sides differ by {last.state_difference:.2g} of it at the end",
                f"循环状态：范数 {last.state_norm:.3g}，结束时两侧相差其 {last.state_difference:.2g}",
            )
        )
    if divergence is not None:
        print(_greedy_line(divergence, tokenizer))
    print(words)


def _greedy_line(divergence: Divergence, tokenizer: Tokenizer | None) -> str:
    if divergence.position is None:
        return say(f"greedy: the same {divergence.tokens} tokens", f"贪心：{divergence.tokens} 个词元完全相同")
    assert divergence.token_a is not None and divergence.token_b is not None
    shown = [str(i) if tokenizer is None else repr(tokenizer.decode([i])) for i in (divergence.token_a, divergence.token_b)]
    return say(
        f"greedy: the first other token is number {divergence.position}: {shown[0]} (ahead by {divergence.margin_a:.2g}) "
        f"against {shown[1]} (ahead by {divergence.margin_b:.2g})",
        f"贪心：第一个不同的词元是第 {divergence.position} 个：{shown[0]}（领先 {divergence.margin_a:.2g}）"
        f"与 {shown[1]}（领先 {divergence.margin_b:.2g}）",
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
        raise AnymambaError("usage", say(f"there is no folder {target.parent}", f"没有目录 {target.parent}"))


def _plot(measured: Drift, target: Path) -> None:
    from anymamba.cli.plot import write

    if not any(w.logit_difference > 0 for w in measured.windows):
        print(say("nothing to plot: the sides are identical", "没有可绘制的内容：两侧完全相同"), file=sys.stderr)
        return
    write(lambda: _axes(measured), target)


def _axes(measured: Drift) -> Axes:
    from anymamba.training.show.axes import COLOURS, Axes, Curve

    names = {
        "logit_difference": say("largest logit difference", "logit 最大差异"),
        "state_difference": say("state difference, relative", "状态相对差异"),
        "kl": say("KL divergence", "KL 散度"),
        "state_norm": say("norm of the state", "状态范数"),
    }
    curves = []
    for colour, (name, label) in zip(COLOURS, names.items()):
        points = [(float(w.position), value) for w in measured.windows if (value := getattr(w, name)) is not None and value > 0]
        if points:
            curves.append(Curve(label, colour, points))
    return Axes(curves, say("tokens", "词元"), f"{measured.a} / {measured.b}", log_y=True)
