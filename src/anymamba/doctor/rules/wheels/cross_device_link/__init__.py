"""Old releases rename the wheel across file systems."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM018",
    cause="cross-device-link",
    order=207,
    signatures=(Signature(r"\[Errno 18\] (?:Invalid cross-device link|无效的跨设备[链连]接)(?:: '[^'\n]*)?"),),
)
