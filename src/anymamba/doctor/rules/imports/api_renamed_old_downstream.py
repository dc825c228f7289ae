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
        "mamba_ssm.ops.triton.layernorm became layer_norm in 2.0.0.",
        "mamba_ssm.ops.triton.layernorm 在 2.0.0 中改名为 layer_norm。",
    ),
    needed=Text(
        "The import must be edited, or the old release used; anymamba's drop-in knows both names.",
        "需要修改导入语句或使用旧版本；anymamba 的替身模块同时提供两个名称。",
    ),
    signatures=(
        Signature(r"No module named '?mamba_ssm\.ops\.triton\.layernorm'?(?!_)", own=True),
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
            ("pip install --no-build-isolation mamba-ssm==1.2.2 causal-conv1d==1.4.0",),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/SkyworkAI/Gamba/issues/3",),
)
