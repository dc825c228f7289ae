"""A kernel that does not fit the GPU."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM063",
    cause="triton-out-of-shared-memory",
    order=610,
    signatures=(
        Signature(r"out of resource: shared memory,? Required: ?\d+", bare=True),
        Signature(r"OutOfResources: out of resource"),
        Signature(r"out of resource: (?:shared memory|threads|registers)"),
    ),
)
