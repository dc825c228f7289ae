"""git main builds CUDA only when asked to."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    return match_signatures(
        log,
        (
            Signature(r"selective_scan_cuda is not installed\. To use Mamba-1", own=True),
            Signature(r"selective_scan_cuda is not installed", own=True),
            Signature(r"reinstall with:? [^\n]*MAMBA_KEEP_CUDA_BUILD", own=True),
        ),
    )


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    package = facts["packages"]["mamba_ssm"]
    if package.get("opt_in") and "selective_scan_cuda" in facts["packages"]["errors"]:
        return Match((), CERTAIN, None, (package["location"], facts["packages"]["errors"]["selective_scan_cuda"]))
    return None


RULE = Rule(
    code="AM048",
    cause="keep-cuda-build-opt-in",
    order=422,
    title=Text(
        "this mamba-ssm comes from git main, which leaves the Mamba-1 kernel out unless MAMBA_KEEP_CUDA_BUILD=TRUE",
        "这个 mamba-ssm 来自 git 主线，除非设置 MAMBA_KEEP_CUDA_BUILD=TRUE，否则不含 Mamba-1 内核",
    ),
    why=Text(
        "Since July 2026 git main builds no CUDA code by default and calls itself 2.3.2.post1 like the release on"
        " PyPI, which does build it: one version, two behaviours. The message also appears when the"
        " extension is there and its import fails, for example with an undefined symbol.",
        "自 2026 年 7 月起，git 主线默认不编译 CUDA 代码，却与 PyPI 上会编译的版本同样自称 2.3.2.post1：同一版本"
        "号，两种行为。扩展存在但导入失败（如 undefined symbol）时也会出现此消息。",
    ),
    needed=Text(
        "Only for Mamba-1 with the official package; Mamba-2 and Mamba-3 do not use that kernel.",
        "只有用官方包运行 Mamba-1 时才需要；Mamba-2 与 Mamba-3 不使用该内核。",
    ),
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text("See the true reason first: this prints it.", "先查看真正原因：以下命令会显示。"),
            ('python -c "import torch, selective_scan_cuda"',),
        ),
        Remedy(
            Text(
                "Build with the kernel; needs nvcc and a CUDA torch.", "连同内核一起构建；需要 nvcc 与 CUDA 版 torch。"
            ),
            (
                "MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir"
                " git+https://github.com/state-spaces/mamba",
            ),
        ),
        Remedy(
            Text("Or take the release from PyPI.", "或使用 PyPI 上的发布版本。"),
            ("pip install --force-reinstall --no-deps --no-build-isolation mamba-ssm=={mamba2}",),
        ),
    ),
    explains=("selective-scan-cuda-missing",),
    links=("https://github.com/state-spaces/mamba/pull/977",),
)
