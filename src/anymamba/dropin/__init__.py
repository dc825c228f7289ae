"""``mamba_ssm`` and ``causal_conv1d`` as importable packages that run on anymamba's ops, on any machine.

Three ways in: ``anymamba.dropin()`` in code, ``anymamba run script.py`` for an unmodified program, ``anymamba dropin enable`` for a
whole environment. A real package that works always wins unless ``override`` says otherwise. This module is callable, and light: torch
is imported with the first of the packages, not here.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from anymamba.dropin import finder
from anymamba.errors import AnymambaWarning
from anymamba.language import _

_FAMILIES = (
    "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "mamba",
    "mamba2", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_next", "zamba", "zamba2",
)  # fmt: skip


def install(override: bool | Sequence[str] = False) -> None:
    """Makes ``import mamba_ssm`` and ``import causal_conv1d`` (and the modules selective_scan_cuda, causal_conv1d_cuda) find ours.

    override: False: only where no working real package is installed; True: always; names of packages: always for those.
    A package that was imported before stays what it is. Warns where modeling files of transformers were imported before: those have
    already decided what they call.
    """
    finder.install(finder.NAMES if override is True else tuple(override or ()))
    late = _bound_without_us()
    if late:
        warnings.warn(
            _(
                "transformers had imported {modules} before anymamba.dropin(): these files keep what they found at "
                "import. Call anymamba.dropin() before the first import of a model, or start the program with "
                "`anymamba run`"
            ).format(modules=", ".join(late)),
            AnymambaWarning,
            stacklevel=3,
        )


def remove() -> None:
    """Undoes ``install`` for imports still to come; what was imported stays."""
    finder.remove()


def status() -> dict[str, Any]:
    """What stands behind each name here, what was served by which backend and how often, what fell back, what transformers reaches.

    Keys: "active", "packages" (name -> state, version, file, reason), "calls" (how often each function of the packages was called),
    "served" (op -> backend -> count), "fell_back" (op, backend, reason, count), "transformers" (version, reached, how).
    """
    from anymamba.dropin.report import status as report

    return report()


def _bound_without_us() -> list[str]:
    """Modeling files that were imported while neither package could be. Before 5.15 transformers looks when a model is made."""
    version = str(getattr(sys.modules.get("transformers"), "__version__", "5.15"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < (5, 15):
        return []
    return [
        f"modeling_{family}"
        for family in _FAMILIES
        if f"transformers.models.{family}.modeling_{family}" in sys.modules and not finder.served_to_transformers(family)
    ]


class _Callable(ModuleType):
    def __call__(self, override: bool | Sequence[str] = False) -> None:
        install(override)


sys.modules[__name__].__class__ = _Callable
