"""``anymamba plot RUN...``: loss curves of one or several runs, as SVG, as PNG, or in the terminal."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from anymamba.cli.options import number
from anymamba.errors import AnymambaError
from anymamba.language import current_language, say, set_language

if TYPE_CHECKING:
    from anymamba.training.show.axes import Axes, Curve

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
    from anymamba.training.show.axes import X_NAMES, Y_NAMES, Axes
    from anymamba.training.show.chart import chart

    folders = [Path(name).expanduser() for name in arguments.runs]
    target = Path(arguments.output).expanduser() if arguments.output else folders[0] / f"{arguments.y}.svg"
    if not arguments.terminal:
        check_target(target)
    if arguments.terminal:
        plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        width = min(100, shutil.get_terminal_size().columns)
        curves = _curves(arguments, folders)
        print(chart([(curve.name, curve.points) for curve in curves], width=width, ascii_only=plain))
        return 0
    write(
        lambda: Axes(_curves(arguments, folders), say(*X_NAMES[arguments.x]), say(*Y_NAMES[arguments.y]), arguments.log), target
    )  # fmt: skip
    print(target)
    return 0


def _curves(arguments: argparse.Namespace, folders: list[Path]) -> list[Curve]:
    from anymamba.training.show.axes import curves_of

    curves = curves_of(folders, arguments.x, arguments.y, arguments.smooth)
    if arguments.log:
        for curve in curves:
            curve.points = [(x, y) for x, y in curve.points if y > 0]
        curves = [curve for curve in curves if curve.points]
        if not curves:
            raise AnymambaError("run-folder", say("--log: no value is positive", "--log：没有正值"))
    return curves


def check_target(target: Path) -> None:
    """Raises AnymambaError for a name that ends neither in .svg nor .png, and for .png where Pillow is not installed."""
    if target.suffix.lower() not in (".svg", ".png"):
        raise AnymambaError("usage", say(f"{target}: the name must end in .svg or .png", f"{target}：文件名须以 .svg 或 .png 结尾"))
    if target.suffix.lower() == ".png":
        from anymamba.training.show.fonts import pillow

        pillow()


def write(make: Callable[[], Axes], target: Path) -> None:
    """Writes the picture in the form that the file's name says. make: the axes, labelled in the current language.

    Raises AnymambaError for another form or a folder that is not there.
    """
    check_target(target)
    try:
        if target.suffix.lower() == ".svg":
            from anymamba.training.show.svg import svg

            target.write_text(svg(make()), encoding="utf-8")
        else:
            target.write_bytes(_png(make))
    except OSError as error:
        raise AnymambaError("file", say(f"{target} cannot be written", f"无法写入 {target}"), why=str(error)) from error


def _png(make: Callable[[], Axes]) -> bytes:
    """With English labels, and said so, where no font here has the Chinese ones."""
    from anymamba.training.show.fonts import lacking
    from anymamba.training.show.png import FONT_SIZE, png, texts_of

    axes = make()
    without = lacking(texts_of(axes), FONT_SIZE)
    if not without:
        return png(axes)
    warn = say("no font of this machine shows {}: ", "本机没有能显示 {} 的字体：").format(", ".join(map(repr, without)))
    remedy = say(
        "the labels are English (install a Chinese font such as fonts-noto-cjk, or write .svg)",
        "改用英文标签（可安装中文字体，如 fonts-noto-cjk，或改写 .svg）",
    )
    language = current_language()
    set_language("en")
    try:
        axes = make()
    finally:
        set_language(language)
    for place, curve in enumerate(axes.curves, 1):
        if lacking([curve.name], FONT_SIZE):
            remedy += say(f"; {curve.name} is shown as curve {place}", f"；{curve.name} 显示为 curve {place}")
            curve.name = f"curve {place}"
    print(warn + remedy, file=sys.stderr)
    return png(axes)
