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
from anymamba.language import _, current_language, set_language

if TYPE_CHECKING:
    from anymamba.training.show.axes import Axes, Curve

CHOICES_X = ("step", "tokens", "seconds")
CHOICES_Y = ("loss", "bits_per_byte", "perplexity", "lr", "tokens_per_s", "grad_norm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help=_("run folders"))
    parser.add_argument("-o", "--output", default="", metavar="FILE", help=_(".svg or .png (default: RUN/loss.svg)"))
    parser.add_argument("-x", choices=CHOICES_X, default="step", help=_("horizontal axis"))
    parser.add_argument("-y", choices=CHOICES_Y, default="loss", help=_("vertical axis"))
    parser.add_argument("--log", action="store_true", help=_("logarithmic vertical axis"))
    parser.add_argument(
        "--smooth", type=number(below=1.0), default=0.0, metavar="W",
        help=_("running mean, 0 (none) to below 1"),
    )  # fmt: skip
    parser.add_argument("--terminal", action="store_true", help=_("draw in the terminal, write no file"))


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
        lambda: Axes(_curves(arguments, folders), _(X_NAMES[arguments.x]), _(Y_NAMES[arguments.y]), arguments.log), target
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
            raise AnymambaError("run-folder", _("--log: no value is positive"))
    return curves


def check_target(target: Path) -> None:
    """Raises AnymambaError for a name that ends neither in .svg nor .png, and for .png where Pillow is not installed."""
    if target.suffix.lower() not in (".svg", ".png"):
        raise AnymambaError("usage", _("{target}: the name must end in .svg or .png").format(target=target))
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
        raise AnymambaError("file", _("{target} cannot be written").format(target=target), why=str(error)) from error


def _png(make: Callable[[], Axes]) -> bytes:
    """With English labels, and said so, where no font here has the Chinese ones."""
    from anymamba.training.show.fonts import lacking
    from anymamba.training.show.png import FONT_SIZE, png, texts_of

    axes = make()
    without = lacking(texts_of(axes), FONT_SIZE)
    if not without:
        return png(axes)
    warn = _("no font of this machine shows {letters}: ").format(letters=", ".join(map(repr, without)))
    remedy = _("the labels are English (install a Chinese font such as fonts-noto-cjk, or write .svg)")
    language = current_language()
    set_language("en")
    try:
        axes = make()
    finally:
        set_language(language)
    for place, curve in enumerate(axes.curves, 1):
        if lacking([curve.name], FONT_SIZE):
            remedy += _("; {name} is shown as curve {place}").format(name=curve.name, place=place)
            curve.name = f"curve {place}"
    print(warn + remedy, file=sys.stderr)
    return png(axes)
