"""A version or extra that the shell took for itself."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM111",
    cause="unquoted-specifier",
    order=8,
    signatures=(
        Signature(r"zsh: (?:no matches found: \S*(?:mamba|causal)\S*|[=]?\d[\d.]* not found)"),
        Signature(
            r"(?:bash|zsh|sh): [^\n]*(?:=?\d+\.\d+(?:\.\d+)?): (?:No such file|Permission denied"
            r"|command not found|cannot create)",
        ),
        Signature(r"-bash: =?\d+\.\d+[^\n]*"),
    ),
)
