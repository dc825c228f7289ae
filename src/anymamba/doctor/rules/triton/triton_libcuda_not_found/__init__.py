"""Triton cannot link with the driver's library."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM060",
    cause="triton-libcuda-not-found",
    order=604,
    signatures=(
        Signature(r"cannot find -lcuda(?![a-z])", bare=True),
        Signature(r"libcuda\.so cannot found!", bare=True),
        Signature(r"gcc[^\n]*-lcuda[^\n]*returned non-zero exit status 1"),
        Signature(r"Command '\[?'?/?[\w/.-]*(?:gcc|cc|clang)'?,?[^\n]*-lcuda\b", confidence=LIKELY, bare=True),
        Signature(r"-lcuda'?[\],][^\n]*returned non-zero exit status"),
        Signature(r"Possible files are located at \[[^\]\n]*libcuda|Please create a symlink of libcuda\.so"),
    ),
)
