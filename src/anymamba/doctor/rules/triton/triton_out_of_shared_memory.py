"""A kernel that does not fit the GPU."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM063",
    cause="triton-out-of-shared-memory",
    order=610,
    title=Text(
        "a Triton kernel needs more shared memory than this GPU has", "Triton 内核所需的共享内存超过了该显卡的上限"
    ),
    why=Text(
        "The kernel's tiles grow with d_state, headdim and chunk_size. GPUs other than A100 and H100 have about 100"
        " KiB, older Triton versions also used more.",
        "内核的分块随 d_state、headdim 与 chunk_size 增大。除 A100、H100 外，显卡约有 100 KiB 共享内存；旧版 Triton"
        " 用量也更大。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"out of resource: shared memory,? Required: ?\d+", bare=True),
        Signature(r"OutOfResources: out of resource"),
        Signature(r"out of resource: (?:shared memory|threads|registers)"),
    ),
    remedies=(
        Remedy(
            Text("A newer Triton, with its torch.", "使用较新的 Triton 及对应的 torch。"),
            ("pip install --force-reinstall torch=={torch2} --index-url https://download.pytorch.org/whl/{cuda2}",),
        ),
        Remedy(
            Text(
                "Or a smaller chunk_size (for example 64) or headdim in the model.",
                "或在模型中使用更小的 chunk_size（例如 64）或 headdim。",
            )
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/438",),
)
