"""Downstream code for mamba-ssm 1.x."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM054",
    cause="api-renamed-old-downstream",
    order=530,
    title=Text(
        "this program was written for mamba-ssm 1.x; the module has another name since 2.0",
        "该程序是为 mamba-ssm 1.x 编写的；自 2.0 起该模块已改名",
    ),
    why=Text(
        "In 2.0.0 mamba_ssm.ops.triton.layernorm became layer_norm, Block moved to mamba_ssm.modules.block, and blocks take d_intermediate"
        " and mlp_cls.",
        "2.0.0 把 mamba_ssm.ops.triton.layernorm 改名为 layer_norm，把 Block 移到 mamba_ssm.modules.block，并要求 d_intermediate 与"
        " mlp_cls 参数。",
    ),
    needed=Text(
        "The import must be edited, or the old release used; anymamba's drop-in knows both names.",
        "需要修改导入语句或使用旧版本；anymamba 的替身模块同时提供两个名称。",
    ),
    signatures=(
        Signature(r"No module named '?mamba_ssm\.ops\.triton\.layernorm'?(?!_)", own=True),
        Signature(r"cannot import name 'Block' from '?mamba_ssm\.modules\.(?:mamba_simple|mamba2)", own=True),
        Signature(
            r"(?:create_block\(\)|MixerModel\.__init__\(\)|Block\.__init__\(\)|__init__\(\)) missing 1 required positional argument:"
            r" '(?:d_intermediate|mlp_cls)'",
            own=True,
        ),
        Signature(r"cannot import name '(?:RMSNorm|layer_norm_fn|rms_norm_fn)' from 'mamba_ssm\.ops\.triton\.layernorm'", own=True),
        Signature(r"cannot import name 'create_block' from 'mamba_ssm\.modules", own=True),
        Signature(
            r"module 'mamba_ssm\.ops\.triton' has no attribute 'layernorm'|cannot import name 'layernorm' from"
            r" 'mamba_ssm",
            own=True,
        ),
    ),
    remedies=(
        Remedy(
            Text("Edit the import in the program.", "修改程序中的导入语句。"),
            (
                "grep -rl 'ops.triton.layernorm ' --include='*.py' . | xargs sed -i 's/ops.triton.layernorm"
                " /ops.triton.layer_norm /'",
            ),
            powershell=("Get-ChildItem -Recurse *.py | Select-String 'ops.triton.layernorm '",),
        ),
        Remedy(
            Text("Or install the last 1.x release.", "或安装最后一个 1.x 版本。"),
            ("pip uninstall -y mamba-ssm causal-conv1d", "pip install --no-build-isolation --no-cache-dir {conv1_spec} {mamba1_spec}",),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/SkyworkAI/Gamba/issues/3",),
)
