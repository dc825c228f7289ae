"""pip install of a module that is only a part of a package."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM090",
    cause="module-is-no-package",
    order=490,
    signatures=(
        Signature(
            r"(?:No matching distribution found for|Could not find a version that satisfies the requirement|No solution found[^\n]*)"
            r" (?:selective[-_]scan[-_]cuda\w*|causal[-_]conv1d[-_]cuda|mamba[-_]simple|selective[-_]scan[-_]\w+)",
            own=True,
        ),
        Signature(r"(?:selective[-_]scan[-_]cuda[-_]?\w*|causal[-_]conv1d[-_]cuda) was not found in the package registry", own=True),
    ),
)
