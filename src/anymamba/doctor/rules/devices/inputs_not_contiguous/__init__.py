"""The kernels want their inputs in a certain order of memory."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM124",
    cause="inputs-not-contiguous",
    order=627,
    signatures=(
        Signature(r"Expected (?:x|u|z|A|B|C|delta|dt|weight|dout|out)\.(?:stride\(-?\d\) == 1|is_contiguous\(\))[^\n]{0,60} to be true"),
        Signature(r"Expected x\.stride\(2\) == 1 \|\| x\.stride\(1\) == 1 to be true"),
    ),
)
