"""Triton's compiler itself fails on an official kernel."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Rule, Signature

RULE = Rule(
    code="AM117",
    cause="triton-compiler-crash",
    order=604,
    signatures=(
        Signature(
            r"Unexpected mma -> mma layout conversion|mlir::triton::\w+|lib/(?:Analysis|Dialect"
            r"|Conversion)/\S+\.cpp:\d+: [^\n]*Assertion", confidence=LIKELY,
        ),
        Signature(
            r"RuntimeError: PassManager::run failed|error: operation destroyed but still has uses"
            r"|failed to legalize operation 'tt\.\w+'", confidence=LIKELY,
        ),
        Signature(r"LLVM ERROR: (?!Cannot select|out of memory)[^\n]*", confidence=LIKELY),
        Signature(
            r"(?:in make_ttgir|in make_llir|in make_ttir|ttgir_to_llir|optimize_ttgir)(?:."
            r"|\n){0,300}?RuntimeError: [^\n]*", confidence=LIKELY,
        ),
    ),
)
