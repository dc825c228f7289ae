"""mamba-ssm 2.3.2's pins cannot be met."""

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
    code="AM085",
    cause="tilelang-pin-conflict",
    order=54,
    title=Text(
        "a package that mamba-ssm 2.3.2.post1 pins (tilelang, apache-tvm-ffi, quack-kernels) cannot be installed here",
        "mamba-ssm 2.3.2.post1 固定的某个依赖（tilelang、apache-tvm-ffi、quack-kernels）无法在此安装",
    ),
    why=Text(
        "tilelang 0.1.8 and quack-kernels exist for Linux and CUDA only; other packages may want other versions of"
        " them.",
        "tilelang 0.1.8 与 quack-kernels 只有 Linux 与 CUDA 版；其他包也可能要求不同版本。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"(?:No matching distribution found for|Could not find a version that satisfies the requirement)"
            r" (?:tilelang|apache-tvm-ffi|quack-kernels|nvidia-cutlass-dsl)",
            bare=True,
        ),
        Signature(r"mamba[-_]ssm[^\n]*(?:depends on|requires) (?:tilelang|apache-tvm-ffi|quack-kernels)[^\n]*"),
        Signature(r"Failed to build (?:tilelang|apache-tvm-ffi|quack-kernels)"),
    ),
    remedies=(
        Remedy(
            Text("The release before it does without them.", "前一个版本不需要它们。"),
            ("pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv2} mamba-ssm=={mamba2}",),
        ),
        advice.USE_ANYMAMBA,
    ),
)
