"""The model families there are: those of ``FAMILIES``, those that a program registered, and those of installed packages.

A package brings a family by an entry point in its pyproject.toml, and the command line then knows it too:

    [project.entry-points."anymamba.families"]
    my_model = "my_package.my_model"

A program may also call ``register(FAMILY)``. torch is imported with a family, not with this file.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

from anymamba.errors import AnymambaError, ArgumentError
from anymamba.language import _
from anymamba.models import FAMILIES

if TYPE_CHECKING:
    from anymamba.models.config import Config
    from anymamba.models.family import Family
    from anymamba.models.trunk.fused_step import Recurrence

GROUP = "anymamba.families"
"""Of the entry points."""

_checked: dict[str, Family[Any]] = {}
"""Those in use, each after its contract was checked."""


def names() -> list[str]:
    """Every family's name; nothing is imported."""
    return list(dict.fromkeys([*FAMILIES, *_checked, *(point.name for point in metadata.entry_points(group=GROUP))]))


def family(name: str) -> Family[Any]:
    """The family of this ``model_type``. Raises ArgumentError that lists those there are, AnymambaError for one that breaks the contract,
    naming it and the rule."""
    if name not in _checked:
        module = FAMILIES.get(name) if isinstance(name, str) else None
        if module is None:
            module = next((point.module for point in metadata.entry_points(group=GROUP) if point.name == name), None)
        if module is None:
            raise ArgumentError(
                "usage",
                _("there is no model family {name!r}").format(name=name),
                fix=_("known: ") + ", ".join(names()),
            )
        _checked[name] = _loaded(name, module)
    return _checked[name]


def family_of(config: Config) -> Family[Any]:
    """The family of a model with this configuration. Raises like ``family``."""
    return family(config.model_type)


def fused_steps(config: Config) -> list[Recurrence] | None:
    """Of every layer, in order; None where a layer has none."""
    steps = [kind.fused_step and kind.fused_step(config) for kind in family_of(config).layers(config)]
    return None if None in steps else [step for step in steps if step is not None]


def every_family() -> Iterator[Family[Any]]:
    """One after another, those of installed packages last: who stops early does not import them."""
    for name in names():
        yield family(name)


def register(new: Family[Any]) -> None:
    """Makes a family known to this process. Raises AnymambaError naming the rule of the contract that it breaks."""
    from anymamba.models import contract

    where = getattr(getattr(new, "config", None), "__module__", "register()")
    contract.check(new, where)
    if new.name in names() and _checked.get(new.name) is not new:
        raise contract.broken(where, _("the name {name!r} is free").format(name=new.name))
    _checked[new.name] = new


def forget(name: str) -> None:
    """Undoes ``register``."""
    _checked.pop(name, None)


def _loaded(name: str, module: str) -> Family[Any]:
    from anymamba.models import contract

    try:
        found: Any = getattr(importlib.import_module(module), "FAMILY", None)
    except AnymambaError:
        raise
    except Exception as error:
        raise AnymambaError(
            "family",
            _("the model family {name!r} cannot be imported from {module}").format(name=name, module=module),
            why=f"{type(error).__name__}: {error}",
        ) from error
    contract.check(found, module, name)
    return found
