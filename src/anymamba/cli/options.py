"""Values of options that several verbs have: checked while the command line is read, so that a wrong one is a usage error at once."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from anymamba.language import N_, _

if TYPE_CHECKING:
    import torch

LARGEST_SEED = 2**63 - 1


def whole(least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from ``least`` to ``most``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            to = N_("{text!r} is no whole number from {least} to {most}")
            sentence = N_("{text!r} is no whole number from {least} on") if most is None else to
            raise argparse.ArgumentTypeError(_(sentence).format(text=text, least=least, most=most))
        return number

    return read


def number(least: float = 0.0, below: float = math.inf, positive: bool = False) -> Callable[[str], float]:
    """An argparse type: a number from ``least`` on (above it where positive), below ``below``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least <= value < below) or (positive and value <= least):
            if below < math.inf:
                above = N_("{text!r} is no number above {least:g} and below {below:g}")
                sentence = above if positive else N_("{text!r} is no number from {least:g} and below {below:g}")
            else:
                sentence = (
                    N_("{text!r} is no number above {least:g}")
                    if positive
                    else N_("{text!r} is no number from {least:g}")
                )
            raise argparse.ArgumentTypeError(_(sentence).format(text=text, least=least, below=below))
        return value

    return read


seed = whole(0, LARGEST_SEED)


def add_activation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--a-activation",
        choices=("softplus", "heavy_tail"),
        help=_("Mamba-3: activation of A (default: as the checkpoint says, else tried on a short text)"),
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="NAME",
        help=_("cpu, cuda, cuda:1, xpu, mps (default: the fastest here)"),
    )  # fmt: skip


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=whole(1), metavar="N", help=_("CPU threads (default: all cores)"))


def device_of(name: str | None) -> torch.device:
    """The device named with --device, or the fastest. Raises AnymambaError (usage) for one that this machine does not have."""
    from anymamba.backends import machine

    return machine.usable_device(name) if name else machine.default_device()

