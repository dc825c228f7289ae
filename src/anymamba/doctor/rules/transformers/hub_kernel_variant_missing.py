"""Hugging Face's kernels have no build for this machine."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import HARMLESS, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM120",
    cause="hub-kernel-variant-missing",
    order=703,
    title=Text(
        "Hugging Face's hub has no prebuilt kernel for this torch, CUDA and system",
        "Hugging Face 上没有适用于此 torch、CUDA 与系统的预编译内核",
    ),
    why=Text(
        "The package kernels fetches a build that was made for exactly this torch minor version, CUDA version "
        "and processor. There is none for this combination.",
        "kernels 包会下载与 torch 次版本、CUDA 版本、处理器完全对应的构建，而该组合没有。",
    ),
    needed=HARMLESS,
    signatures=(
        Signature(r"Cannot find a build variant for this system in \S*(?:mamba|causal-conv1d)", own=True),
        Signature(
            r"(?:kernels-community/(?:mamba-ssm|causal-conv1d))[^\n]*(?:not found|does not exist|404"
            r"|No matching|Cannot)", own=True,
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "Choose a torch that has one.",
                "选用有对应构建的 torch。",
            ),
            (
                "pip install --force-reinstall torch=={torch2} --index-url "
                "https://download.pytorch.org/whl/{cuda2}",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
)
