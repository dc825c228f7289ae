"""Realistic and hostile inputs of every op, from its spec: long sequences, tiny and huge step sizes, states that grow, borders of every
chunk size, every option, layouts and sizes that no tile divides. Short wherever length is not the point: the whole table takes a minute."""

from __future__ import annotations

from dataclasses import dataclass

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends.opspec import SPECS, Build, OpSpec


@dataclass(frozen=True)
class Case:
    """build: makes the inputs in float64. grad: compare gradients too."""

    spec: OpSpec
    name: str
    build: Build
    grad: bool = True

    @property
    def op(self) -> str:
        return self.spec.name


CASES: tuple[Case, ...] = (
    *(Case(spec, "typical", spec.build(), bool(spec.differentiable)) for spec in SPECS.values()),
    *(Case(spec, name, build) for spec in SPECS.values() for name, build in spec.cases.items()),
    *(Case(spec, name, build, grad=False) for spec in SPECS.values() for name, build in spec.forward_cases.items()),
)
