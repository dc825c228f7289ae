"""torch itself does not import."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    NECESSARY,
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
            Signature(r"(?:ImportError|OSError): \S*torch[\\/]lib[\\/]\S*\.so[^\n]*: undefined symbol: \w+", bare=True),
            Signature(r"libtorch_\w+\.so: undefined symbol: (?:nccl|iJIT|cudnn|cublas|__nvJitLink)\w+", bare=True),
            Signature(r"OSError: \[WinError \d+\] [^\n]*(?:\n[^\n]*)?torch\\+lib\\+\w+\.dll", bare=True),
        ),
    )


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    error = facts["torch"].get("error")
    if not error or "no answer within" in error:
        return None
    return Match((), CERTAIN, None, ("import torch: {}".format(error),))


RULE = Rule(
    code="AM086",
    cause="torch-import-broken",
    order=70,
    title=Text("torch itself cannot be imported", "torch 本身无法导入"),
    why=Text(
        "Its files do not fit each other: an interrupted upgrade, conda's and pip's torch mixed in one environment,"
        " another version of MKL or NCCL found first, or on Windows a missing Visual C++ runtime.",
        "它的文件彼此不匹配：升级中断、同一环境中混装了 conda 与 pip 的 torch、先找到了其他版本的 MKL 或 NCCL，或在"
        " Windows 上缺少 Visual C++ 运行库。",
    ),
    needed=NECESSARY,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text("Install torch anew, best in a new environment.", "重新安装 torch，最好在新环境中进行。"),
            (
                "pip uninstall -y torch",
                "pip install --no-cache-dir torch=={torch} --index-url https://download.pytorch.org/whl/{cuda}",
                'python -c "import torch; print(torch.__version__)"',
            ),
        ),
        Remedy(
            Text(
                "iJIT_NotifyEvent in a conda environment: an older MKL.",
                "conda 环境中出现 iJIT_NotifyEvent：使用较旧的 MKL。",
            ),
            ("conda install -y mkl==2024.0",),
        ),
        Remedy(
            Text(
                "Other libraries may be found first: try without this variable.", "可能先找到了其他库：去掉该变量再试。"
            ),
            ("unset LD_LIBRARY_PATH",),
            systems=("linux", "wsl"),
        ),
        Remedy(
            Text("Windows: install the Visual C++ runtime.", "Windows：安装 Visual C++ 运行库。"),
            (),
            ("winget install Microsoft.VCRedist.2015+.x64",),
            systems=("windows",),
        ),
    ),
    explains=("abi-undefined-symbol",),
    links=("https://github.com/pytorch/pytorch/issues/123097",),
)
