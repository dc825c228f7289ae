"""The errors that a user sees: what happened, why, what to do. Standard library only."""

from __future__ import annotations

import warnings
from typing import Optional, Set

from anymamba.language import _


class AnymambaError(Exception):
    """what: the user's own file, line, flag or tensor shape, and what is wrong with it; why: the cause, where it helps;
    fix: what to do now. Each is one sentence already in the user's language (``language._``).

    code is short, stable and greppable: "shape", "dtype", "device", "backend", "checkpoint", "data", "usage", ...
    """

    def __init__(self, code: str, what: str, why: Optional[str] = None, fix: Optional[str] = None) -> None:
        self.code, self.what, self.why, self.fix = code, what, why, fix
        super().__init__(code, what, why, fix)

    @property
    def exit_code(self) -> int:
        """Of the command line: 2 for wrong usage, whenever it is noticed, else 1."""
        return 2 if self.code == "usage" else 1

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(_("why: ") + self.why)
        if self.fix:
            lines.append(_("fix: ") + self.fix)
        return "\n".join(lines)


class ArgumentError(AnymambaError, ValueError):
    """An argument of an op or a public function has a wrong shape, size or value."""


class ArgumentTypeError(AnymambaError, TypeError):
    """An argument has a wrong dtype or type, or lies on another device."""


class UnsupportedError(AnymambaError, NotImplementedError):
    """An option that neither upstream nor we have, such as an unknown activation."""


class BackendError(AnymambaError, RuntimeError):
    """The backend that was asked for by name cannot do this here."""


class AnymambaWarning(UserWarning):
    """A slower or other path was taken than the user may expect; said once, with the reason and the remedy."""


_said: Set[str] = set()


def warn_once(key: str, text: str) -> None:
    """One line, once per process and key."""
    if key not in _said:
        _said.add(key)
        warnings.warn(text, AnymambaWarning, stacklevel=3)
