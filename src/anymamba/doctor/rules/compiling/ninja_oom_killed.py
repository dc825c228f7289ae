"""The compiler was killed for want of memory."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)

_KILLED = (
    r"Killed signal terminated program cc1plus|[nN]vcc error *: '(?:cicc|cudafe\+\+|ptxas|fatbinary|cc1plus)' died"
    r" due to signal (?:9|11|7)|fatal error: Killed signal"
    r"|(?:g\+\+|c\+\+|gcc|x86_64[\w-]*g\+\+|cc1plus)[^\n]*(?:internal compiler error: )?Killed|cc1plus: out of"
    r" memory allocating|virtual memory exhausted"
    r"|已杀死|编译器的堆空间不足|fatal error C1060|fatal error C1002|out of heap space|LLVM ERROR: out of memory"
    r"|std::bad_alloc"
    r"|页面文件太小|paging file is too small|Out of memory: Killed process \d+ \((?:cicc|cc1plus|ptxas|nvcc|cudafe)"
)


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(_KILLED),
            Signature(r"^(?:Killed|已杀死|/bin/sh: line \d+: +\d+ Killed[^\n]*)$", confidence=LIKELY),
            Signature(
                r"exit (?:code|status):? ?(?:-9|137)\b|SIGKILL: 9|returned non-zero exit status (?:137|-9)|died"
                r" with <Signals\.SIGKILL",
                confidence=LIKELY,
            ),
        ),
    )
    if not match:
        return None
    around = log.around(match.offsets[0], match.offsets[0], before=200, after=60)
    if re.search(
        r"Building wheel|nvcc|ninja|cc1plus|bdist_wheel|setup\.py|csrc|cl\.exe|build_ext|Failed to build", around
    ):
        return match
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    return None


RULE = Rule(
    code="AM030",
    cause="ninja-oom-killed",
    order=360,
    title=Text("the compiler ran out of memory", "编译器耗尽了内存"),
    why=Text(
        "Each nvcc of this build takes several GB, ninja starts one for every processor core, and setup.py adds"
        " --threads 4. The system then kills one of them.",
        "此构建中每个 nvcc 需要数 GB 内存，ninja 会按处理器核数同时启动，setup.py 还加了 --threads 4。内存不足时系"
        "统会杀死其中的进程。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Compile fewer files at the same time (about 4 GB each; NVCC_THREADS is not read).",
                "减少同时编译的文件数（每个约 4 GB；NVCC_THREADS 不起作用）。",
            ),
            ("MAX_JOBS=1 pip install -v --no-build-isolation {package}",),
        ),
        Remedy(
            Text(
                "WSL: give it more memory in %UserProfile%\\.wslconfig ([wsl2] memory=16GB), then restart it.",
                "WSL：在 %UserProfile%\\.wslconfig 中增加内存（[wsl2] memory=16GB），然后重启。",
            ),
            ("wsl.exe --shutdown",),
            systems=("wsl",),
        ),
    ),
    explains=("log-truncated",),
    links=("https://github.com/state-spaces/mamba/blob/main/.github/workflows/publish.yaml",),
)
