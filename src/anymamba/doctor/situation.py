"""Questions that several rules ask of a log."""

from __future__ import annotations

import re
from typing import List, Optional, Tuple

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Signature, match_signatures

NAME_ERROR = Signature(r"NameError: name ['\"]bare_metal_version['\"] is not defined", bare=True)
NVCC_WARNING = Signature(
    r"(?:mamba_ssm|causal_conv1d|selective_scan\w*) was requested, but nvcc was not found", own=True
)
NO_CUDA_HOME = Signature(r"(?:OSError|EnvironmentError): CUDA_HOME environment variable is not set", confidence=LIKELY)
# torch.version.cuda is None: mamba-ssm 2.3.2 parses it before it looks for nvcc
NONE_VERSION = Signature(
    r"InvalidVersion: Invalid version: '?None'?|TypeError: expected string or bytes-like object(?:, got 'NoneType')?$"
)

_OVERLAY_TORCH = re.compile(
    r"(?:pip-build-env-\w+[\\/]+(?:overlay|normal)|builds-v\d+[\\/]+\.tmp\w+|[\\/]uv[\\/][^\n]{0,60}\.tmp\w+"
    r"|virtualenvs?[\\/]+\.tmp\w+)"
    r"[^\n]{0,120}site-packages[\\/]+(?:torch|functorch|torchgen)[\\/]"
)


def overlay_torch(log: Log) -> Optional[int]:
    """Where the log shows a torch inside pip's or uv's temporary build environment."""
    found = _OVERLAY_TORCH.search(log.text)
    return found.start() if found else None


def no_cuda(log: Log) -> Optional[Match]:
    """setup.py found no CUDA compiler, in any of the ways in which its versions say so."""
    named = match_signatures(log, (NAME_ERROR, NVCC_WARNING, NO_CUDA_HOME))
    if named:
        return named
    return _none_version(log)


def _none_version(log: Log) -> Optional[Match]:
    # the same words come from anything that parses versions: they must come out of our setup.py
    match = match_signatures(log, (NONE_VERSION,))
    if match and re.search(
        r"get_wheel_url|torch\.version\.cuda|parse\(torch|setup\.py|<string>|build_wheel|metadata",
        log.around(match.offsets[0], match.offsets[0]),
    ):
        return match
    return None


def torch_kind(version: Optional[str], system: Optional[str]) -> Optional[str]:
    """ "cpu", "cuda", "rocm" or None, by the version string that torch gives itself."""
    if not version:
        return None
    if "+cpu" in version:
        return "cpu"
    if re.search(r"\+cu\d|\+cuda|\.nv\d", version):
        return "cuda"
    if "+rocm" in version or "+git" in version and "rocm" in version:
        return "rocm"
    # PyPI's builds for Windows and macOS have no CUDA, and call themselves +cpu or nothing
    return "cpu" if system in ("windows", "macos") else None


def build_torch(log: Log) -> Tuple[Optional[str], Optional[str]]:
    """(version, kind) of the torch that setup.py saw."""
    version = log.facts.get("torch_of_build")
    kind = torch_kind(version, log.facts.get("system"))
    wheel = log.facts.get("wheel")
    if kind is None and wheel:
        kind = (
            "cuda"
            if re.match(r"cu\d", wheel["accelerator"])
            else "rocm"
            if wheel["accelerator"].startswith("hip")
            else None
        )
    return version, kind


def first(log: Log, *patterns: str) -> List[int]:
    """The offset of the first match of each pattern that occurs."""
    offsets = []
    for pattern in patterns:
        found = log.search(pattern)
        if found:
            offsets.append(found.start())
    return offsets


def short(version: str) -> Tuple[int, ...]:
    """(2, 7, 1) of "2.7.1.post1+cu128", for comparisons."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def differs(one: Optional[str], other: Optional[str]) -> bool:
    """Whether two torch versions are different builds as far as an extension cares (minor version or CUDA)."""
    if not one or not other:
        return False
    if short(one)[:2] != short(other)[:2]:
        return True
    return "+" in one and "+" in other and one.split("+")[1] != other.split("+")[1]
