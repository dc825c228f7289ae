"""Triton's compiler itself fails on an official kernel."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import LIKELY, OPTIONAL, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM117",
    cause="triton-compiler-crash",
    order=604,
    title=Text(
        "Triton's compiler crashes on a kernel of mamba-ssm: a fault of that Triton version",
        "Triton 编译器在编译 mamba-ssm 的内核时崩溃：这是该 Triton 版本的缺陷",
    ),
    why=Text(
        'An assertion of MLIR or LLVM, or "PassManager::run failed", comes from inside the compiler and says '
        "nothing about the program. Other Triton versions compile the same kernel; a change of sizes may pass "
        "round it.",
        "MLIR 或 LLVM 的断言、“PassManager::run failed” 都来自编译器内部，与程序无关。换一个 Triton 版本通常可以"
        "编译，改变尺寸也可能绕过。",
    ),
    needed=OPTIONAL,
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
    remedies=(
        Remedy(
            Text(
                "A torch with a newer Triton, and both packages for it.",
                "使用带有更新 Triton 的 torch，以及与之配套的两个包。",
            ),
            (
                "pip install --force-reinstall torch=={torch2} --index-url "
                "https://download.pytorch.org/whl/{cuda2}",
                "pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/565",),
)
