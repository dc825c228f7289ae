"""``anymamba plot RUN...``: loss curves of one or several runs, as SVG, as PNG, or in the terminal."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from anymamba.cli.options import number
from anymamba.errors import AnymambaError
from anymamba.language import say

CHOICES_X = ("step", "tokens", "seconds")
CHOICES_Y = ("loss", "bits_per_byte", "perplexity", "lr", "tokens_per_s", "grad_norm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help=say("run folders", "运行目录"))
    parser.add_argument(
        "-o", "--output", default="", metavar="FILE", help=say(".svg or .png (default: RUN/loss.svg)", ".svg 或 .png（默认 RUN/loss.svg）")
    )
    parser.add_argument("-x", choices=CHOICES_X, default="step", help=say("horizontal axis", "横轴"))
    parser.add_argument("-y", choices=CHOICES_Y, default="loss", help=say("vertical axis", "纵轴"))
    parser.add_argument("--log", action="store_true", help=say("logarithmic vertical axis", "纵轴取对数"))
    parser.add_argument(
        "--smooth", type=number(below=1.0), default=0.0, metavar="W",
        help=say("running mean, 0 (none) to below 1", "滑动平均，0（无）到 1 之间"),
    )  # fmt: skip
    parser.add_argument("--terminal", action="store_true", help=say("draw in the terminal, write no file", "只在终端绘制，不写文件"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.training.axes import X_NAMES, Y_NAMES, Axes, curves_of
    from anymamba.training.chart import chart

    folders = [Path(name).expanduser() for name in arguments.runs]
    curves = curves_of(folders, arguments.x, arguments.y, arguments.smooth)
    if arguments.log:
        for curve in curves:
            curve.points = [(x, y) for x, y in curve.points if y > 0]
        curves = [curve for curve in curves if curve.points]
        if not curves:
            raise AnymambaError("run-folder", say("--log: no value is positive", "--log：没有正值"))
    if arguments.terminal:
        plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        width = min(100, shutil.get_terminal_size().columns)
        print(chart([(curve.name, curve.points) for curve in curves], width=width, ascii_only=plain))
        return 0
    axes = Axes(curves, say(*X_NAMES[arguments.x]), say(*Y_NAMES[arguments.y]), arguments.log)
    target = Path(arguments.output) if arguments.output else folders[0] / f"{arguments.y}.svg"
    write(axes, target)
    print(target)
    return 0


def write(axes: object, target: Path) -> None:
    """Writes the picture in the form that the file's name says. Raises AnymambaError for another form or a folder that is not there."""
    from anymamba.training.axes import Axes
    from anymamba.training.png import png
    from anymamba.training.svg import svg

    assert isinstance(axes, Axes)
    suffix = target.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise AnymambaError("usage", say(f"{target}: the name must end in .svg or .png", f"{target}：文件名须以 .svg 或 .png 结尾"))
    try:
        if suffix == ".svg":
            target.write_text(svg(axes), encoding="utf-8")
        else:
            target.write_bytes(png(axes))
    except OSError as error:
        raise AnymambaError("file", say(f"{target} cannot be written", f"无法写入 {target}"), why=str(error)) from error
