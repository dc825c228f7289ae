"""anymamba verify: every backend against the exact result; anymamba verify MODEL --against A B: how far two ways drift apart."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymamba.errors import AnymambaError
from anymamba.language import say

if TYPE_CHECKING:
    import torch

    from anymamba.models.lm import LanguageModel
    from anymamba.numerics.drift import Divergence, Drift
    from anymamba.numerics.op_errors import Row
    from anymamba.numerics.sides import Side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", help=say("checkpoint folder or Hugging Face name", "检查点目录或 Hugging Face 名称")
    )
    parser.add_argument(
        "--against", nargs=2, metavar=("A", "B"),
        help=say(
            "two sides: backends, dtypes (float32, bfloat16, float64) and modes (scan, step) joined by colons, as cpu torch:float64",
            "比较的两侧：后端、数据类型（float32、bfloat16、float64）与模式（scan、step）用冒号连接，例如 cpu torch:float64",
        ),
    )  # fmt: skip
    parser.add_argument(
        "--tokens",
        type=int,
        default=4096,
        help=say("tokens that both sides read (default 4096)", "两侧共同读取的词元数（默认 4096）"),
    )
    parser.add_argument(
        "--greedy",
        type=int,
        default=512,
        metavar="N",
        help=say(
            "tokens that each side writes (default 512; 0: none)", "各自贪心生成的词元数（默认 512；0 表示不生成）"
        ),
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        help=say("text to read; default: what the model writes itself", "要读取的文本；默认使用模型自己写的文本"),
    )
    parser.add_argument(
        "--plot", metavar="FILE", help=say("drift over position, .svg or .png", "漂移随位置变化图，.svg 或 .png")
    )
    parser.add_argument(
        "--only", default="", metavar="OP", help=say("only ops whose name contains this", "只检查名称包含该文字的算子")
    )
    parser.add_argument("--dtypes", default="float32,bfloat16", help=say("of the ops' inputs", "算子输入的数据类型"))
    parser.add_argument(
        "--device", help=say("cpu, cuda, ... (default: the fastest here)", "cpu、cuda 等（默认本机最快的设备）")
    )
    parser.add_argument(
        "--json", action="store_true", help=say("one JSON document on stdout", "在标准输出打印一个 JSON 文档")
    )
    parser.add_argument("-v", "--verbose", action="store_true", help=say("every case", "显示每个案例"))


def run(arguments: argparse.Namespace) -> int:
    """0: all within the criterion, or only rounding; 1: a backend failed, or a fault was found."""
    if bool(arguments.model) != bool(arguments.against):
        raise AnymambaError(
            "usage",
            say("a model and --against A B go together", "模型与 --against A B 必须同时给出"),
            fix=say("anymamba verify MODEL --against cpu torch", "anymamba verify MODEL --against cpu torch"),
        )
    import torch

    from anymamba.backends import machine

    device = torch.device(arguments.device) if arguments.device else machine.default_device()
    return _model(arguments, device) if arguments.model else _ops(arguments, device)


def _ops(arguments: argparse.Namespace, device: torch.device) -> int:
    import torch

    from anymamba.backends import machine
    from anymamba.numerics import op_errors

    dtypes = tuple(getattr(torch, name) for name in arguments.dtypes.split(","))
    rows = []
    for row in op_errors.measure(device, dtypes, arguments.only):
        rows.append(row)
        if not arguments.json and sys.stderr.isatty():
            print(f"\r{row.op}: {row.case}".ljust(70), end="", file=sys.stderr, flush=True)
    if not rows:
        raise AnymambaError(
            "usage", say(f"no op is named like {arguments.only!r}", f"没有名称包含 {arguments.only!r} 的算子")
        )
    failed = [row for row in rows if not row.ok]
    for row in failed:
        op_errors.reject(row, device)
    if arguments.json:
        document = {
            "machine": machine.facts(),
            "device": str(device),
            "ok": not failed,
            "rows": [vars(row) for row in rows],
        }
        json.dump(document, sys.stdout, indent=1)
        print()
    else:
        _print_ops(rows, failed, str(device), arguments.verbose)
    return int(bool(failed))


def _print_ops(rows: list[Row], failed: list[Row], device: str, verbose: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if sys.stderr.isatty():
        print("\r" + " " * 72 + "\r", end="", file=sys.stderr)
    shown = rows if verbose else _worst(rows)
    grid = Table(title=say(f"errors against the float64 reference on {device}", f"{device} 上相对 float64 参考的误差"))
    for heading in (
        say("op", "算子"),
        say("backend", "后端"),
        "dtype",
        say("worst case", "最差案例"),
        say("error", "误差"),
        say("allowed", "允许"),
        "",
    ):
        grid.add_column(heading)
    for row in shown:
        mark = "[green]" + say("pass", "通过") + "[/]" if row.ok else "[bold red]" + say("FAIL", "失败") + "[/]"
        grid.add_row(
            row.op, row.backend, row.dtype, f"{row.case}: {row.where}", f"{row.error:.1e}", f"{row.allowed:.1e}", mark
        )
    console = Console()
    console.print(grid)
    for row in failed:
        console.print(
            "[bold red]" + escape(f"{row.backend} {row.op} {row.dtype}, {row.case}") + "[/]: " + escape(row.reason),
            highlight=False,
        )
    cases = len(rows)
    if failed:
        text = say(
            f"{len(failed)} of {cases} measurements failed; these backends are not used any more for these ops on this device "
            "(`anymamba backends --check` clears that)",
            f"{cases} 项测量中有 {len(failed)} 项失败；在本设备上这些算子将不再使用这些后端（`anymamba backends --check` 可清除）",
        )
    else:
        text = say(f"all {cases} measurements are within the criterion", f"全部 {cases} 项测量均符合标准")
    console.print(text, highlight=False)


def _worst(rows: list[Row]) -> list[Row]:
    """For each op, backend and dtype the case that used up most of what is allowed."""
    worst: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = row.op, row.backend, row.dtype
        if key not in worst or row.error / max(row.allowed, 1e-30) > worst[key].error / max(worst[key].allowed, 1e-30):
            worst[key] = row
    return list(worst.values())


def _model(arguments: argparse.Namespace, device: torch.device) -> int:
    import torch

    from anymamba.backends import machine
    from anymamba.models import hub
    from anymamba.numerics import drift, sides

    a, b = (sides.parse_side(text) for text in arguments.against)
    model = hub.load(arguments.model, device=device)
    text = _text(arguments, model)
    if not arguments.json:
        print(
            say(f"reading {arguments.tokens} tokens on both sides", f"两侧各读取 {arguments.tokens} 个词元"),
            file=sys.stderr,
        )
    measured = drift.teacher_forced(model, a, b, text, arguments.tokens)
    divergence = None
    if arguments.greedy > 0:
        divergence = drift.greedy(model, a, b, torch.zeros(1, dtype=torch.long), arguments.greedy)
    ok, words = drift.verdict(measured, divergence, _rounding(model, a, b))
    if arguments.plot:
        _plot(measured, Path(arguments.plot))
    if arguments.json:
        document = {
            "machine": machine.facts(), "device": str(device), "model": arguments.model, "teacher_forced": measured.as_dict(),
            "greedy": vars(divergence) if divergence else None, "ok": ok, "verdict": words,
        }  # fmt: skip
        json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        _print_model(measured, divergence, words)
    return int(not ok)


def _text(arguments: argparse.Namespace, model: LanguageModel) -> Any:
    import torch

    from anymamba.models import hub
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
    ids = load_tokenizer(hub.find(arguments.model)).encode(text)
    if not ids:
        raise AnymambaError("data", say(f"{arguments.text} is empty", f"{arguments.text} 为空"))
    return drift.pieces_of(torch.tensor(ids))


def _rounding(model: LanguageModel, a: Side, b: Side) -> float:
    """Unit roundoff of the coarser of the two sides."""
    import torch

    return max(torch.finfo(side.dtype or model.dtype).eps for side in (a, b)) / 2


def _print_model(measured: Drift, divergence: Divergence | None, words: str) -> None:
    from anymamba.training.chart import chart

    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    points = [(float(w.position), w.logit_difference) for w in measured.windows]
    if len(points) > 1:
        print(say("largest difference of a logit, over position", "logit 最大差异随位置的变化"))
        print(chart([(f"{measured.a} / {measured.b}", points)], ascii_only=plain))
    print(
        say(
            f"{measured.tokens} tokens: logits differ by at most {measured.largest:.2g} (their scale is {measured.logit_scale:.2g}), "
            f"mean KL {measured.mean_kl:.2g} nats, {measured.disagreements} other likeliest tokens, "
            f"change over the text {measured.slope:+.2g}",
            f"{measured.tokens} 个词元：logits 最多相差 {measured.largest:.2g}（其尺度为 {measured.logit_scale:.2g}），"
            f"平均 KL {measured.mean_kl:.2g} 奈特，最可能词元不同 {measured.disagreements} 处，随文本变化 {measured.slope:+.2g}",
        )
    )
    if measured.windows:
        last = measured.windows[-1]
        print(
            say(
                f"recurrent state: norm {last.state_norm:.3g}, the sides differ by {last.state_difference:.2g} of it at the end",
                f"循环状态：范数 {last.state_norm:.3g}，结束时两侧相差其 {last.state_difference:.2g}",
            )
        )
    if divergence is not None and divergence.position is None:
        print(say(f"greedy: the same {divergence.tokens} tokens", f"贪心：{divergence.tokens} 个词元完全相同"))
    print(words)


def _plot(measured: Drift, target: Path) -> None:
    from anymamba.cli.plot import write
    from anymamba.training.axes import COLOURS, Axes, Curve

    windows = [w for w in measured.windows if w.logit_difference > 0]
    if not windows:
        raise AnymambaError("usage", say("nothing to plot: the sides are identical", "没有可绘制的内容：两侧完全相同"))
    curves = [
        Curve(say("largest logit difference", "logit 最大差异"), COLOURS[0], [(w.position, w.logit_difference) for w in windows]),
        Curve(
            say("state difference, relative", "状态相对差异"), COLOURS[1],
            [(w.position, w.state_difference) for w in windows if w.state_difference > 0],
        ),
        Curve(say("KL divergence", "KL 散度"), COLOURS[2], [(w.position, w.kl) for w in windows if w.kl > 0]),
    ]  # fmt: skip
    write(
        Axes([c for c in curves if c.points], say("tokens", "词元"), f"{measured.a} / {measured.b}", log_y=True), target
    )
