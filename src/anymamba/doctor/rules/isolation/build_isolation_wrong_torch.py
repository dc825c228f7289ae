"""The isolated build used another torch than the one that will import the result."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice, situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    OPTIONAL,
    POSSIBLE,
    Match,
    Rule,
    Text,
    match_signatures,
)

_DAMAGE = (
    r"undefined symbol|libcudart\.so\.\d|libc10\w*\.so: cannot open|The detected CUDA version|DLL load failed"
    r"|was requested, but nvcc was not found|bare_metal_version"
)


def _log(log: Log) -> Optional[Match]:
    if not log.facts["isolated"] or log.facts["rocm"] or not log.names_ours:
        return None
    overlay = situation.overlay_torch(log)
    version, kind = situation.build_torch(log)
    if kind == "cpu" or match_signatures(log, (situation.NONE_VERSION,)):
        return None
    installed = log.facts.get("torch_installed")
    guessed = (log.facts.get("wheel") or {}).get("torch")
    used = version or guessed
    if situation.differs(used, installed):
        offsets = situation.first(log, r"torch\.__version__\s*= ", r"Guessing wheel URL: ")
        return Match(tuple(([overlay] if overlay is not None else []) + offsets), CERTAIN)
    # nobody says which torch is installed: isolation explains damage that a second torch does
    mismatch = log.search(
        r"The detected CUDA version \((?:%s|[\d.]+)\) mismatches|undefined symbol: \S+|libcudart\.so\.\d+[^\n]*:"
        r" cannot open"
    )
    if (
        mismatch
        and log.concern(mismatch.start(), mismatch.end()) in ("ours", "mentioned")
        and (overlay is not None or log.has("Installing build dependencies"))
    ):
        return Match(tuple(([overlay] if overlay is not None else []) + [mismatch.start()]), LIKELY)
    if overlay is not None and log.search(_DAMAGE):
        return Match((overlay,), POSSIBLE)
    return None


RULE = Rule(
    code="AM006",
    cause="build-isolation-wrong-torch",
    order=72,
    title=Text(
        "the package was built in isolation against another torch than yours",
        "该包是在隔离环境中针对另一个 torch 构建的，与你安装的 torch 不同",
    ),
    why=Text(
        "mamba-ssm from 2.2.3 and causal-conv1d from 1.5.1 list torch as a build requirement: pip downloads the"
        " newest torch into a temporary"
        " folder (pip-build-env-…/overlay; uv: builds-v0/.tmp…) and chooses the wheel, or compiles, for that one."
        " The result then disagrees with the"
        " torch that you run: CUDA mismatch while building, libcudart or undefined symbol when importing.",
        "mamba-ssm 2.2.3 起、causal-conv1d 1.5.1 起把 torch 列为构建依赖：pip 会把最新的 torch 下载到临时目录"
        "（pip-build-env-…/overlay；uv 为"
        " builds-v0/.tmp…），并针对它选择 wheel 或编译。其结果与你实际使用的 torch 不一致：构建时 CUDA 版本不符，或"
        "导入时报 libcudart、undefined symbol。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(advice.RIGHT_WHEEL, advice.NO_ISOLATION),
    explains=("cuda-major-mismatch", "abi-undefined-symbol", "libcudart-not-found", "no-prebuilt-wheel"),
    links=("https://github.com/state-spaces/mamba/issues/679", "https://github.com/state-spaces/mamba/issues/772"),
)
