"""No gcc or g++ at all."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM076",
    cause="host-compiler-missing",
    order=324,
    signatures=(
        Signature(r"error: command '?[\w/.-]*(?:gcc|g\+\+|cc|c\+\+|clang)'? failed: No such file or directory"),
        Signature(r"unable to execute '?[\w/.-]*(?:gcc|g\+\+|c\+\+)'?: No such file or directory"),
        Signature(
            r"(?:/bin/sh: (?:\d+: |line \d+: )?|nvcc fatal *: )[^\n]*(?:gcc|g\+\+|c\+\+|cc1plus)[^\n]*(?:not found"
            r"|No such file|command not found)|nvcc fatal *: Failed to preprocess host compiler properties"
        ),
        Signature(r"Failed to find C compiler\. Please specify via CC environment variable"),
        Signature(r"(?:gcc|g\+\+|c\+\+): fatal error: cannot execute ['‘]?cc1plus|error trying to exec 'cc1plus'"),
        Signature(r"FileNotFoundError: \[Errno 2\] No such file or directory: '(?:gcc|g\+\+|c\+\+|cc|which)'"),
    ),
    explains=("log-truncated",),
)
