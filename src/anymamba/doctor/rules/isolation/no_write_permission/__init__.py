"""pip may not write into this Python."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM123",
    cause="no-write-permission",
    order=13,
    signatures=(
        Signature(
            r"Could not install packages due to an (?:OSError|EnvironmentError): \[(?:Errno 13"
            r"|WinError 5)\][^\n]*",
        ),
        Signature(r"PermissionError: \[Errno 13\] Permission denied: '[^'\n]*(?:site|dist)-packages[^'\n]*'"),
        Signature(r"error: could not create '[^'\n]*': Permission denied"),
    ),
)
