"""One file a cause, in a folder a theme; adding a file and a log in tests/doctor/logs adds a diagnosis. CONTRIBUTING.md has the recipe."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Dict, Tuple

from anymamba.doctor.rule import Rule

_rules: Tuple[Rule, ...] = ()


def all_rules() -> Tuple[Rule, ...]:
    """Every rule, by code."""
    global _rules
    if not _rules:
        modules = [module.name for module in pkgutil.walk_packages(__path__, __name__ + ".") if not module.ispkg]
        _rules = tuple(sorted((importlib.import_module(name).RULE for name in modules), key=lambda rule: rule.code))
    return _rules


def by_name() -> Dict[str, Rule]:
    """Rules by code ("AM012") and by cause ("nvcc-missing")."""
    table = {rule.code: rule for rule in all_rules()}
    table.update({rule.cause: rule for rule in all_rules()})
    return table
