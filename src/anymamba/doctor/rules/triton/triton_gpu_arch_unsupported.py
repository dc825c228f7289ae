"""Triton does not know the GPU, or no longer does."""

from __future__ import annotations

from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM059",
    cause="triton-gpu-arch-unsupported",
    order=602,
    title=Text("this Triton version does not support this GPU", "该 Triton 版本不支持这块显卡"),
    why=Text(
        "Triton compiles for the GPU that it finds. Pascal and Maxwell were never supported, the 2080 Ti fails with"
        " triton 3.0, and an old ptxas does not know new GPUs.",
        "Triton 会针对所发现的显卡编译。Pascal 与 Maxwell 从不受支持；2080 Ti 在 triton 3.0 下会失败；旧的 ptxas 不"
        "认识新显卡。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"IndexError: map::at", bare=True),
        Signature(r"LLVM ERROR: Cannot select: [^\n]*llvm\.nvvm\.\w+", bare=True),
        Signature(r"(?:llvm\.nvvm\.)?shfl\.sync[.\w]*[^\n]*(?:Cannot select|not supported|requires|LLVM)", bare=True),
        Signature(r"Feature '(?![^'\n]*bf16)[^'\n]*' requires \.target sm_\d+", bare=True),
        Signature(r"ptxas fatal *: Value 'sm_\d+\w?' is not defined for option 'gpu-name'"),
        Signature(
            r"(?:triton|ptxas)[^\n]*(?:sm_\d+|compute capability)[^\n]*(?:not supported|unsupported)|Triton only"
            r" supports devices of CUDA Capability"
        ),
        Signature(
            r"(?:PTX|ptxas)[^\n]*Unsupported \.version|Call to undefined function '__nvvm_reflect'", confidence=LIKELY
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "RTX 50 and other new GPUs: torch 2.7 or newer brings a Triton that knows them.{only_blackwell}",
                "RTX 50 等新显卡：torch 2.7 及以后自带支持它们的 Triton。{only_blackwell}",
            ),
            ("pip install --force-reinstall torch=={torch2} --index-url https://download.pytorch.org/whl/{cuda2}",),
        ),
        Remedy(
            Text(
                "RTX 20 (2080 Ti) with mamba-ssm up to 2.3.1: an older Triton.{only_turing}",
                "RTX 20（2080 Ti）且 mamba-ssm 不高于 2.3.1：使用较旧的 Triton。{only_turing}",
            ),
            ("pip install --no-deps triton==2.1.0",),
        ),
        Remedy(
            Text("Pascal and older: anymamba's torch backend.{only_pascal}", "Pascal 及更旧：使用 anymamba 的 torch 后端。{only_pascal}"),
            ("export ANYMAMBA_BACKEND=torch", "anymamba dropin enable"),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/516", "https://github.com/state-spaces/mamba/issues/173"),
)
