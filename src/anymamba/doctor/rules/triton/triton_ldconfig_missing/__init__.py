"""Triton asks /sbin/ldconfig."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM062",
    cause="triton-ldconfig-missing",
    order=605,
    signatures=(
        Signature(r"(?:No such file or directory|没有那个文件或目录): '(?:/sbin/)?ldconfig'", bare=True),
        Signature(r"/sbin/ldconfig[^\n]*(?:not found|returned non-zero|No such file)"),
    ),
)
