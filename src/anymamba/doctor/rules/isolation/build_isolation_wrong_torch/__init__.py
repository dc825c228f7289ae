"""The isolated build used another torch than the one that will import the result."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, POSSIBLE, Match, Rule, match_signatures

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
    log=_log,
    explains=("cuda-major-mismatch", "abi-undefined-symbol", "libcudart-not-found", "no-prebuilt-wheel"),
)
