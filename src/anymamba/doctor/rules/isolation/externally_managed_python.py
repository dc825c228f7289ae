"""The system's Python refuses pip."""

from __future__ import annotations

from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM081",
    cause="externally-managed-python",
    order=12,
    title=Text("the system's Python does not let pip install into it", "系统自带的 Python 不允许用 pip 安装"),
    why=Text(
        "Debian 12, Ubuntu 24.04 and others reserve the system's Python for their own packages.",
        "Debian 12、Ubuntu 24.04 等系统把自带的 Python 留给系统软件包使用。",
    ),
    needed=OPTIONAL,
    signatures=(Signature(r"error: externally-managed-environment", bare=True),),
    remedies=(
        Remedy(
            Text("Make an environment.", "创建虚拟环境。"),
            ("python3 -m venv mamba-env", "source mamba-env/bin/activate", "pip install torch"),
            systems=("linux", "wsl", "macos"),
        ),
    ),
)
