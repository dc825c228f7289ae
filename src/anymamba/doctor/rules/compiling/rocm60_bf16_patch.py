"""ROCm 6.0's bf16 header."""

from __future__ import annotations

from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM041",
    cause="rocm60-bf16-patch",
    order=345,
    title=Text(
        "ROCm 6.0's bf16 header has a bug; use ROCm 6.1 or patch the header",
        "ROCm 6.0 的 bf16 头文件有错误；请使用 ROCm 6.1 或给头文件打补丁",
    ),
    why=Text(
        "setup.py checks for ROCm 6.0 and asks for a patch of amd_hip_bf16.h.",
        "setup.py 检测到 ROCm 6.0，并要求修补 amd_hip_bf16.h。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"requires a patch to be applied when running on ROCm 6\.0"),
        Signature(r"amd_hip_bf16\.h:\d+:\d+: error"),
    ),
    remedies=(
        Remedy(
            Text("Patch the header (needs root), or update ROCm.", "修补头文件（需要 root 权限），或升级 ROCm。"),
            (
                "git clone https://github.com/state-spaces/mamba && cd mamba",
                "sudo patch -i rocm_patch/rocm6_0.patch /opt/rocm/include/hip/amd_detail/amd_hip_bf16.h",
            ),
            systems=("linux", "wsl"),
        ),
    ),
    links=("https://github.com/state-spaces/mamba#readme",),
)
