"""Triton's kernels in Triton's interpreter: their own arithmetic, in NumPy, on a machine without a GPU.

The interpreter takes its time for every operation of a program, however many elements it works on. Two things let it finish a text
of 100,000 tokens: blocks that cover all channels, and not preparing ``triton.language`` anew at each call inside a kernel. What the
kernels compute stays as it is.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from typing import Any

import numpy
import torch

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.numerics import interpreted_bfloat16

MOST_CHANNELS = 1024
"""Channels of a block, at most."""

_on = False


def switch_on() -> None:
    """From here on Triton kernels of this process are interpreted. Raises AnymambaError where that is no longer, or not, possible."""
    global _on
    if _on:
        return
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        kernels = importlib.import_module("anymamba.backends.triton.scan.selective_scan_forward")
        interpreter = importlib.import_module("triton.runtime.interpreter")
    except ImportError as error:
        raise AnymambaError(
            "backend",
            _("Triton's interpreter is part of triton, which cannot be imported"),
            why=str(error),
            fix=_("pip install triton (on Windows triton-windows)"),
        ) from error
    if not isinstance(kernels.selective_scan_forward_kernel, interpreter.InterpretedFunction):
        raise AnymambaError(
            "backend",
            _("Triton's kernels are already compiled in this process"),
            fix=_("set TRITON_INTERPRET=1 before Python starts"),
        )
    _widen_blocks()
    _prepare_language_once(interpreter)
    interpreted_bfloat16.mend()
    numpy.seterr(over="ignore")  # on a GPU exp2 of a large number is infinity without a word
    _on = True


def _widen_blocks() -> None:
    """One program for all channels and the whole length, in the forward scan and the convolution."""
    scan: Any = importlib.import_module("anymamba.backends.triton.scan.selective_scan")
    conv: Any = importlib.import_module("anymamba.backends.triton.conv.causal_conv1d")
    launch = importlib.import_module("anymamba.backends.triton.launch")
    scan_plan, conv_plan = scan.forward_plan, conv.conv_plan

    def wide_scan(batch: int, channels: int, length: int, d_state: int, device: torch.device, precise: bool = False) -> Any:
        block = min(max(launch.power_of_2(channels), 2), MOST_CHANNELS)
        return dataclasses.replace(scan_plan(batch, channels, length, d_state, device, precise), block_d=block, chunks=1, tile=8)

    def wide_conv(batch: int, channels: int, length: int, device: torch.device, backward: bool = False) -> Any:
        plan = conv_plan(batch, channels, length, device, backward)
        return plan if backward else dataclasses.replace(plan, block=min(launch.power_of_2(channels), MOST_CHANNELS), stretch=512)

    scan.forward_plan, conv.conv_plan = wide_scan, wide_conv


def _prepare_language_once(interpreter: Any) -> None:
    """The interpreter replaces the functions of ``triton.language`` for a launch, and looks for more to replace at every call of a
    function inside it, where there is nothing left: the second time in a launch that is left out. Half of its time."""
    prepare = getattr(interpreter, "_patch_lang", None)
    if prepare is None:  # another version of Triton: slower, and as right
        return
    done: set[tuple[int, ...]] = set()
    launched = False

    class Nothing:
        def restore(self) -> None:
            """Nothing was changed."""

    def prepare_once(function: Any) -> Any:
        nonlocal launched
        language = interpreter.tl, interpreter.tl.core
        key = tuple(sorted({id(value) for value in function.__globals__.values() if any(value is one for one in language)}))
        if launched:
            if key in done:
                return Nothing()
            done.add(key)
            return prepare(function)
        scope = prepare(function)
        restore = scope.restore
        done.clear()
        done.add(key)
        launched = True

        def end_launch() -> None:
            nonlocal launched
            launched = False
            restore()

        scope.restore = end_launch
        return scope

    interpreter._patch_lang = prepare_once
