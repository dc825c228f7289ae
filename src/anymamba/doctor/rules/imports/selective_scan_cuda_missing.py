"""The Python files are there, the compiled part is not."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    CERTAIN,
    ONLY_OFFICIAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
)


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    errors = [
        error
        for error in facts["packages"]["errors"].values()
        if "No module named 'selective_scan_cuda'" in error or "No module named 'causal_conv1d_cuda'" in error
    ]
    return Match((), CERTAIN, None, tuple(errors)) if errors else None


RULE = Rule(
    code="AM047",
    cause="selective-scan-cuda-missing",
    order=420,
    title=Text("the compiled part of the package is not there", "该包缺少编译好的部分"),
    why=Text(
        "Python found the folder mamba_ssm without the extension selective_scan_cuda: it runs inside the source"
        " checkout, the package was copied or installed with MAMBA_SKIP_CUDA_BUILD, or the build"
        " was for another Python.",
        "Python 找到了 mamba_ssm 目录，却没有扩展 selective_scan_cuda：可能是在源码目录中运行，或源码是复制来的，或"
        "安装时设置了 MAMBA_SKIP_CUDA_BUILD，或是为另一个 Python 构建的。",
    ),
    needed=ONLY_OFFICIAL,
    signatures=(
        Signature(
            r"(?:ModuleNotFoundError|ImportError): No module named '?(?:selective_scan_cuda|causal_conv1d_cuda)'?(?!\w)",
            own=True,
        ),
        Signature(r"No module named '?(?:selective_scan_cuda|causal_conv1d_cuda)'?(?!\w)", own=True),
        Signature(
            r"NameError: name '(?:selective_scan_cuda|selective_scan_fn|selective_scan_ref|causal_conv1d_cuda)'"
            r" is not defined",
            own=True,
        ),
    ),
    machine=_machine,
    remedies=(
        Remedy(
            Text(
                "Look where it comes from; run from another folder if it is the checkout.",
                "查看它来自哪里；若是源码目录，请换个目录运行。",
            ),
            (
                "python -c \"import torch, importlib.util as u; print(u.find_spec('mamba_ssm').origin,"
                " u.find_spec('selective_scan_cuda'))\"",
            ),
        ),
        advice.REBUILD,
        advice.USE_ANYMAMBA,
    ),
    explains=("broken-package-reported-missing",),
    links=("https://github.com/state-spaces/mamba/issues/97", "https://github.com/state-spaces/mamba/issues/237"),
)
