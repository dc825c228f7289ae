"""Windows headers clash with torch's."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM037",
    cause="win32-lean-and-mean",
    order=344,
    signatures=(
        Signature(r"error C2872: ?['\"“‘]?byte['\"”’]?: ?(?:ambiguous symbol|不明确的符号)"),
        Signature(
            r"['\"“‘]?byte['\"”’]?: ?(?:ambiguous symbol|不明确的符号)|\"byte\" is ambiguous|reference to 'byte' is"
            r" ambiguous"
        ),
        Signature(r"(?:rpcndr\.h|objidl\.h|oaidl\.h|winsock2?\.h|ws2def\.h)\(\d+\): ?error[^\n]*"),
    ),
    explains=("log-truncated",),
)
