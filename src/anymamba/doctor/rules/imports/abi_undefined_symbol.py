"""The compiled part was made for another torch."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Text,
)

_SYMBOL = (
    r"(?:selective_scan_cuda\w*|causal_conv1d_cuda|selective_scan\w*|dropout_layer_norm)[^\s:]*\.so:"
    r" undefined symbol: (\S+)"
)


def _log(log: Log) -> Optional[Match]:
    found = log.search(_SYMBOL) or log.search(r"undefined symbol: (_ZN(?:3c10|2at|5torch|K3c10)\S+)")
    if found and re.search(r"undefined symbol: _Z\w{0,3}(?:St|Ss|Sa)", found.group(0)):
        return None  # of the C++ library, not of torch: glibcxx-too-old
    if found and log.concern(found.start(), found.end()) in ("ours", "mentioned"):
        vmamba = re.search(r"selective_scan_cuda_(?:core|oflex|nrow|ndstate)", found.group(0))
        values = {"kernels": "VMamba/kernels/selective_scan"} if vmamba else None
        return Match((found.start(),), CERTAIN if "cuda" in found.group(0) else LIKELY, values)
    windows = log.search(
        r"ImportError: DLL load failed while importing (?:selective_scan_cuda\w*|causal_conv1d_cuda"
        r"|selective_scan\w*): [^\n]*"
    )
    return Match((windows.start(),), LIKELY) if windows else None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    errors = [
        error
        for error in facts["packages"]["errors"].values()
        if "undefined symbol" in error or "DLL load failed" in error
    ]
    return Match((), CERTAIN, None, tuple(errors)) if errors else None


RULE = Rule(
    code="AM043",
    cause="abi-undefined-symbol",
    order=410,
    title=Text(
        "the compiled part of the package was built for another torch (undefined symbol)",
        "该包的编译部分是为另一个 torch 构建的（undefined symbol）",
    ),
    why=Text(
        "The file calls functions that your torch does not have under that name: another torch minor version, or"
        " the other C++ ABI. A symbol with SourceLocationESs wants the old ABI, one with"
        " __cxx11 the new one. It happens when torch was changed afterwards, when pip used its cache or an isolated"
        " build, or with a wheel chosen by hand.",
        "该文件调用的函数在你的 torch 中并不以这个名字存在：torch 次版本不同，或 C++ ABI 不同。符号中含"
        " SourceLocationESs 表示旧 ABI，含 __cxx11 表示新 ABI。"
        "常见原因：之后更换过 torch，pip 使用了缓存或隔离构建，或手动选错了 wheel。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text("These are VMamba's own kernels: build them again from its folder.", "这是 VMamba 自带的内核：从其目录重新编译。"),
            (
                "pip uninstall -y selective-scan",
                "git clone --depth 1 https://github.com/MzeroMiko/VMamba",
                "pip install --no-build-isolation --no-cache-dir {kernels}",
            ),
            systems=("linux", "wsl"),
        ),
        advice.RIGHT_WHEEL,
        advice.REBUILD,
        advice.USE_ANYMAMBA,
    ),
    explains=("broken-package-reported-missing", "keep-cuda-build-opt-in", "transformers-fast-path-warning"),
    links=("https://github.com/state-spaces/mamba/issues/331", "https://github.com/state-spaces/mamba/issues/764"),
)
