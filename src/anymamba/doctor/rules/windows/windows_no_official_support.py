"""Windows never had a wheel."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    BRANCH,
    CERTAIN,
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    guess = log.search(r"Guessing wheel URL: \S+win_amd64\.whl")
    if guess:
        return Match((guess.start(),), CERTAIN if log.has(r"Precompiled wheel not found|HTTP Error 404") else LIKELY)
    return None


RULE = Rule(
    code="AM033",
    cause="windows-no-official-support",
    order=790,
    role=BRANCH,
    title=Text(
        "the official packages have no wheel for Windows and do not compile there unchanged",
        "官方包没有 Windows 版 wheel，源码不经修改也无法在 Windows 上编译",
    ),
    why=Text(
        "No release ever had a Windows wheel. A source build needs the CUDA toolkit, Visual Studio's C++ tools,"
        " triton-windows and changes to the CUDA sources (constexpr, M_LOG2E).",
        "官方从未发布过 Windows 版 wheel。源码编译需要 CUDA 工具包、Visual Studio 的 C++ 工具、triton-windows，并且"
        "要修改 CUDA 源码（constexpr、M_LOG2E）。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        advice.USE_ANYMAMBA,
        advice.WSL,
        Remedy(
            Text(
                "Community wheels exist for a few combinations only, see the links; check who made them.",
                "少数组合有社区制作的 wheel，见链接；请自行判断来源是否可信。",
            )
        ),
    ),
    explains=("no-prebuilt-wheel",),
    links=("https://github.com/state-spaces/mamba/issues/12", "https://github.com/state-spaces/mamba/pull/692"),
)
