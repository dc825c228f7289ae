"""An older mamba-ssm on Triton 3."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import LIKELY, OPTIONAL, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM100",
    cause="triton-too-new-for-mamba",
    order=609,
    title=Text(
        "this Triton no longer has functions that an older mamba-ssm calls",
        "该 Triton 已去除旧版 mamba-ssm 所调用的函数",
    ),
    why=Text(
        "Triton 3.0 moved log1p and others from tl.math to libdevice. mamba-ssm before 2.2.0, and copies of it "
        "in forks, still call tl.math.log1p.",
        "Triton 3.0 把 log1p 等函数从 tl.math 移到了 libdevice。2.2.0 以前的 mamba-ssm 以及各分支中的副本仍调用 "
        "tl.math.log1p。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"module 'triton\.language\.math' has no attribute '\w+'", bare=True),
        Signature(r"module 'triton\.language' has no attribute '(?:libdevice|log1p|dot_scaled|float8e5)'", bare=True),
        Signature(r"cannot import name '(?:libdevice|autotune|heuristics|next_power_of_2)' from 'triton", confidence=LIKELY),
        Signature(r"module 'triton\.(?:runtime|compiler|testing|common)[\w.]*' has no attribute '\w+'", confidence=LIKELY),
    ),
    remedies=(
        Remedy(
            Text(
                "A newer mamba-ssm.",
                "升级 mamba-ssm。",
            ),
            (
                "pip install --no-build-isolation --no-cache-dir -U causal-conv1d=={conv2} mamba-ssm=={mamba2}",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/OpenHelix-Team/cobra/issues/28", "https://github.com/NVIDIA/Megatron-LM/issues/1800",),
)
