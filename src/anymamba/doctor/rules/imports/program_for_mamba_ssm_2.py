"""A program for mamba-ssm 2.x, and 1.x is installed."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM091",
    cause="program-for-mamba-ssm-2",
    order=531,
    title=Text(
        "this program was written for mamba-ssm 2.x, and an older release is installed",
        "该程序是为 mamba-ssm 2.x 编写的，而安装的是更旧的版本",
    ),
    why=Text(
        "Block moved to mamba_ssm.modules.block in 2.0.0, which also brought Mamba2 and layer_norm; Mamba3 came "
        "with 2.3.2. An older release does not have these modules and arguments.",
        "2.0.0 把 Block 移到 mamba_ssm.modules.block，并带来了 Mamba2 与 layer_norm；Mamba3 自 2.3.2 起提供。更旧"
        "的版本没有这些模块和参数。",
    ),
    needed=Text(
        "Yes, or use the drop-in, which has the modules of both.",
        "需要；或使用同时提供两套模块的替身模块。",
    ),
    signatures=(
        Signature(
            r"No module named '?mamba_ssm\.modules\.(?:block|mamba2|mamba2_simple|mamba3|mha|mlp"
            r"|ssd_minimal)\b", own=True,
        ),
        Signature(
            r"No module named '?mamba_ssm\.(?:distributed|ops\.triton\.(?:layer_norm|layernorm_gated|ssd_\w+"
            r"|softplus|angle_cumsum|mamba3\w*)|ops\.(?:cute|tilelang))\b", own=True,
        ),
        Signature(r"cannot import name '?(?:Mamba2\w*|Mamba3\w*)'? from '?mamba_ssm", own=True),
        Signature(
            r"MambaConfig\.?(?:__init__)?\(\) got an unexpected keyword argument '(?:d_intermediate"
            r"|attn_layer_idx|attn_cfg|tie_embeddings)'", own=True,
        ),
        Signature(r"module 'mamba_ssm' has no attribute '(?:Mamba2|Mamba3)'", own=True),
    ),
    remedies=(
        Remedy(
            Text(
                "Install a release of 2.x that fits this torch.",
                "安装与当前 torch 匹配的 2.x 版本。",
            ),
            (
                "pip uninstall -y mamba-ssm causal-conv1d",
                "pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv2} mamba-ssm=={mamba2}",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/Bitbol-Lab/ProtMamba-ssm/issues/17",),
)
