"""Wheels made on Ubuntu 22.04."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.rule import (
    CERTAIN,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
)


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    errors = [error for error in facts["packages"]["errors"].values() if "GLIBC_2" in error]
    return Match((), CERTAIN, None, tuple(errors)) if errors else None


RULE = Rule(
    code="AM045",
    cause="glibc-too-old",
    order=414,
    title=Text("the wheel needs a newer glibc than this system has", "该 wheel 需要比本系统更新的 glibc"),
    why=Text(
        "The wheels of mamba-ssm 2.2.5 and from 2.2.6.post2, and of causal-conv1d from 1.5.1, were made on Ubuntu"
        " 22.04 and need glibc 2.32 or newer. Ubuntu 20.04 and RHEL 8 are older. glibc itself cannot be upgraded"
        " safely.",
        "mamba-ssm 2.2.5、2.2.6.post2 及以后，causal-conv1d 1.5.1 及以后的 wheel 在 Ubuntu 22.04 上制作，需要 glibc"
        " 2.32 或更高版本；Ubuntu 20.04 与 RHEL 8 更旧。glibc 本身不能安全地升级。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"version [`'‘]GLIBC_2\.\d+['’`] not found \(required by [^\n)]*(?:selective_scan|causal_conv1d)", own=True
        ),
        Signature(r"(?:libc|libm)\.so\.6: version [`'‘]GLIBC_2\.\d+['’`] not found"),
    ),
    machine=_machine,
    remedies=(
        Remedy(
            Text("Compile on this machine; needs nvcc.", "在本机编译；需要 nvcc。"),
            (
                "pip uninstall -y mamba-ssm causal-conv1d",
                "MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation"
                " --no-cache-dir {conv_source} {mamba_source}",
            ),
        ),
        Remedy(
            Text(
                "torch 2.5 or older: use the last releases whose wheels were made on Ubuntu 20.04.",
                "torch 2.5 及以前：使用最后一批在 Ubuntu 20.04 上制作 wheel 的版本。",
            ),
            ("pip install --no-build-isolation --no-cache-dir causal-conv1d==1.5.0.post8 mamba-ssm==2.2.4",),
        ),
        Remedy(
            Text("Or run in a container with a newer system.", "或在较新系统的容器中运行。"),
            ("docker run --gpus all -it pytorch/pytorch:2.8.0-cuda12.8-cudnn9-devel",),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/765", "https://github.com/state-spaces/mamba/issues/949"),
)
