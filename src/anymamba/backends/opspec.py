"""What an op is, in one object. Probes, the table, `verify`, benchmarks and tests derive from it what they need to know of the op.

``ops/<op>.py`` ends in ``SPEC = register(OpSpec(...))``: backends do not import ops, they are handed the specs.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from anymamba import reference
from anymamba.backends.call import Call, op_of
from anymamba.errors import BackendError
from anymamba.language import _

Arguments = dict[str, Any]
"""Of an op, by name: tensors and options."""

Random = Callable[..., Tensor]
"""random(*shape): a tensor of normal numbers; its dtype and device are those of what is built."""

Build = Callable[[Random], Arguments]


@dataclass(frozen=True)
class Bench:
    """A case that is timed. name: its shape. sizes: parameters of OpSpec.build. dtypes: each is timed. quick: in its first dtype it is
    part of ``bench --quick``. official: (forward, backward) milliseconds of mamba-ssm, see anymamba.bench.official.
    gains: how many times as fast as that we must be."""

    name: str
    sizes: Mapping[str, Any]
    device_type: str = "cpu"
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    quick: bool = False
    official: tuple[float, float] | None = None
    gains: tuple[float, float] | None = None


def on_cuda(
    official: tuple[float, float] | None = None, gains: tuple[float, float] | None = None, quick: bool = False
) -> dict[str, Any]:
    """What a case on a GPU has that one on a processor has not."""
    return {"device_type": "cuda", "dtypes": ("bfloat16",), "official": official, "gains": gains, "quick": quick}


@dataclass(frozen=True)
class OpSpec:
    """function: the public op. build(**sizes): how its inputs are made; every parameter has a default, and together the defaults are
    the op's typical use. differentiable: arguments that get gradients. float32: those that stay float32 when the activations are of
    16 bits. inplace: those that the op changes. beyond_upstream: arguments that a backend gets only where they are used: one that has no
    place for them says no to such calls in ``supports``. composed_of: the ops that it is made of where no backend has it fused.
    probe(call): small inputs that take the kernel that the call takes, where backends have several (None: the typical inputs).
    published: sizes and options with which published models call the op; `anymamba backends --check` checks what these take.
    cases, forward_cases: inputs on which backends are compared with the reference, with gradients and without. bench: what is timed."""

    function: Callable[..., Any]
    build: Callable[..., Build]
    differentiable: tuple[str, ...] = ()
    float32: tuple[str, ...] = ()
    inplace: tuple[str, ...] = ()
    beyond_upstream: tuple[str, ...] = ()
    composed_of: tuple[str, ...] = ()
    probe: Callable[[Call], Build] | None = None
    published: tuple[Mapping[str, Any], ...] = ()
    cases: Mapping[str, Build] = field(default_factory=dict)
    forward_cases: Mapping[str, Build] = field(default_factory=dict)
    bench: tuple[Bench, ...] = ()

    @property
    def name(self) -> str:
        return op_of(self.function)

    @functools.cached_property
    def reference(self) -> Callable[..., Any]:
        """The op's mathematics, slow and exact."""
        return getattr(importlib.import_module(reference.OPS[self.name]), self.name)

    def probe_of(self, call: Call) -> Build:
        return self.build() if self.probe is None else self.probe(call)

    def gradients(self, arguments: Arguments) -> tuple[str, ...]:
        """Names of the arguments that get gradients in this call."""
        return tuple(name for name in self.differentiable if isinstance(arguments.get(name), Tensor))


SPECS: dict[str, OpSpec] = {}
"""Of every op, by name; filled by ``anymamba.ops`` as it is imported."""


def register(spec: OpSpec) -> OpSpec:
    SPECS[spec.name] = spec
    return spec


def spec_of(op: str) -> OpSpec:
    """Raises BackendError with the names that there are."""
    if op not in SPECS:
        raise BackendError(
            "op",
            _("there is no op {op!r}").format(op=op),
            fix=_("choose one of ") + ", ".join(SPECS),
        )
    return SPECS[op]
