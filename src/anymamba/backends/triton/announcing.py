"""Triton's compiler takes seconds a kernel the first time: whoever listens is told."""

from __future__ import annotations

from typing import Any

import triton

from anymamba import announce
from anymamba.language import say


def announce_compilation() -> None:
    """From now on the first kernel that is compiled, and not found in Triton's cache, is announced. Triton before 3.4 cannot tell."""
    compilation: Any = getattr(getattr(triton, "knobs", None), "compilation", None)
    if getattr(compilation, "listener", "") is None:
        compilation.listener = _compiled


def _compiled(*, cache_hit: bool, **_: Any) -> None:
    if not cache_hit:
        announce.once(
            say(
                "Triton compiles kernels for this GPU, which takes some seconds; it keeps them for the next start",
                "Triton 正在为此 GPU 编译内核，需要几秒钟；结果会保留供下次启动使用",
            )
        )
