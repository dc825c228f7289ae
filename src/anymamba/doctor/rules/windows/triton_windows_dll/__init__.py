"""Triton is installed on Windows and its library does not load."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM113",
    cause="triton-windows-dll",
    order=53,
    signatures=(
        Signature(r"DLL load failed while importing libtriton", bare=True),
        Signature(r"libtriton\S*\.pyd[^\n]*(?:cannot|could not|找不到|无法)"),
    ),
)
