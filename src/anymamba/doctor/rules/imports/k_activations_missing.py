"""A file that three releases forgot."""

from __future__ import annotations

from anymamba.doctor.rule import (
    ONLY_OFFICIAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM055",
    cause="k-activations-missing",
    order=532,
    title=Text(
        "mamba-ssm 2.0.0 to 2.0.2 lack the file k_activations.py", "mamba-ssm 2.0.0 至 2.0.2 缺少文件 k_activations.py"
    ),
    why=Text("The file was left out of these releases.", "这几个版本漏掉了该文件。"),
    needed=ONLY_OFFICIAL,
    signatures=(Signature(r"No module named '?mamba_ssm\.ops\.triton\.k_activations'?", own=True),),
    remedies=(
        Remedy(
            Text("Use 2.0.3 or newer.", "使用 2.0.3 或更高版本。"),
            ("pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv2} mamba-ssm=={mamba2}",),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/712",),
)
