"""Triton's compiler takes seconds a kernel the first time: whoever listens is told."""

from __future__ import annotations

from typing import Any

import triton

from anymamba import announce
from anymamba.language import _


def announce_compilation() -> None:
    """From now on the first kernel that is compiled, and not found in Triton's cache, is announced. Triton before 3.4 cannot tell."""
    compilation: Any = getattr(getattr(triton, "knobs", None), "compilation", None)
    if getattr(compilation, "listener", "") is None:
        compilation.listener = _compiled


def _compiled(*, cache_hit: bool, **__: Any) -> None:
    if not cache_hit:
        announce.once(
            _("Triton compiles kernels for this GPU, which takes some seconds; it keeps them for the next start")
        )
