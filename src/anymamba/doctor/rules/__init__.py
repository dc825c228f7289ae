"""One folder a cause, in a folder a theme: what recognises it, and its page in en.md and zh.md. A folder and a log in
tests/doctor/logs add a diagnosis; CONTRIBUTING.md has the recipe. What several pages say is in the en.md and zh.md here."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Dict, List, Tuple

from anymamba.doctor.rule import Rule

_rules: Tuple[Rule, ...] = ()


def all_rules() -> Tuple[Rule, ...]:
    """Every rule, by code."""
    global _rules
    if not _rules:
        found = [importlib.import_module(name).RULE._replace(package=name) for name in _folders()]
        _rules = tuple(sorted(found, key=lambda rule: rule.code))
    return _rules


def _folders() -> List[str]:
    """The packages of the causes: two below this one."""
    names = []
    for theme in pkgutil.iter_modules(__path__, __name__ + "."):
        inner = importlib.import_module(theme.name).__path__
        names += [module.name for module in pkgutil.iter_modules(inner, theme.name + ".")]
    return names


def by_name() -> Dict[str, Rule]:
    """Rules by code ("AM012") and by cause ("nvcc-missing")."""
    table = {rule.code: rule for rule in all_rules()}
    table.update({rule.cause: rule for rule in all_rules()})
    return table
