"""Values of options that several verbs have: checked while the command line is read, so that a wrong one is a usage error at once."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from anymamba.language import say

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
            wanted = _wanted(least, most)
            raise argparse.ArgumentTypeError(say(f"{text!r} is no whole number {wanted[0]}", f"{text!r} 不是{wanted[1]}的整数"))
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
            more = say("above" if positive else "from", "大于" if positive else "不小于")
            range_text = say(f"{more} {least:g}", f"{more} {least:g}")
            if below < math.inf:
                range_text += say(f" and below {below:g}", f"且小于 {below:g}")
            raise argparse.ArgumentTypeError(say(f"{text!r} is no number {range_text}", f"{text!r} 不是{range_text}的数"))
        return value

    return read


seed = whole(0, LARGEST_SEED)


def add_activation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--a-activation",
        choices=("softplus", "heavy_tail"),
        help=say(
            "Mamba-3: activation of A (default: as the checkpoint says, else tried on a short text)",
            "Mamba-3：A 的激活函数（默认以检查点为准，未说明则用短文试出）",
        ),
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="NAME",
        help=say("cpu, cuda, cuda:1, xpu, mps (default: the fastest here)", "cpu、cuda、cuda:1、xpu、mps（默认本机最快的设备）"),
    )  # fmt: skip


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=whole(1), metavar="N", help=say("CPU threads (default: all cores)", "CPU 线程数（默认全部核心）"))


def device_of(name: str | None) -> torch.device:
    """The device named with --device, or the fastest. Raises AnymambaError (usage) for one that this machine does not have."""
    from anymamba.backends import machine

    return machine.usable_device(name) if name else machine.default_device()


def _wanted(least: int, most: int | None) -> tuple[str, str]:
    if most is None:
        return f"from {least} on", f"不小于 {least} "
    return f"from {least} to {most}", f" {least} 到 {most} 之间"
