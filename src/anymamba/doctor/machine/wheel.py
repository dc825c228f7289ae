"""Is there a prebuilt wheel of the official packages for this machine, and under which URL."""

from __future__ import annotations

import platform
import sys
from typing import Any, Dict, Optional, Tuple

from anymamba.doctor.situation import short
from anymamba.language import say

# newest releases with wheels: Python and torch versions of their publishing workflows
_RELEASES = (
    ("mamba_ssm", "2.3.1", "https://github.com/state-spaces/mamba/releases/download/v2.3.1/"),
    ("causal_conv1d", "1.6.1", "https://github.com/Dao-AILab/causal-conv1d/releases/download/v1.6.1.post4/"),
)
_PYTHONS = (10, 13)
# torch minor version -> (CUDA majors, both ABIs)
_TORCHES = {
    (2, 6): (("11", "12"), True),
    (2, 7): (("11", "12"), False),
    (2, 8): (("12",), False),
    (2, 9): (("12", "13"), False),
    (2, 10): (("12", "13"), False),
}


def gather(torch: Dict[str, Any], online: bool) -> Dict[str, Any]:
    """{"reason": why there is none} or {"urls": [...]}, with "reachable" when asked online."""
    reason = _why_none(torch)
    if reason:
        return {"reason": reason}
    urls = [base + _name(package, version, torch) for package, version, base in _RELEASES]
    facts: Dict[str, Any] = {"urls": urls}
    if online:
        facts["reachable"] = {url: _reach(url) for url in urls}
    return facts


def _why_none(torch: Dict[str, Any]) -> Optional[str]:
    if sys.platform != "linux":
        return say("the official packages have wheels for Linux only", "官方包只有 Linux 版 wheel")
    if platform.machine() not in ("x86_64", "aarch64"):
        return say("no wheels for {} processors", "没有适用于 {} 处理器的 wheel").format(platform.machine())
    if not torch.get("installed"):
        return say("torch is not installed", "没有安装 torch")
    if torch["kind"] != "cuda":
        return say("torch {} has no CUDA", "torch {} 不带 CUDA").format(torch["version"])
    if not _PYTHONS[0] <= sys.version_info[1] <= _PYTHONS[1]:
        return say("no wheels for Python 3.{}", "没有适用于 Python 3.{} 的 wheel").format(sys.version_info[1])
    entry = _TORCHES.get(_minor(torch["version"]))
    if entry is None:
        return say("no wheels for torch {}; newest: 2.10", "没有适用于 torch {} 的 wheel；最新支持 2.10").format(
            torch["version"]
        )
    if torch["cuda"].split(".")[0] not in entry[0]:
        return say("no wheels for torch {} with CUDA {}", "没有适用于 torch {}、CUDA {} 的 wheel").format(
            torch["version"], torch["cuda"]
        )
    return None


def _minor(version: str) -> Tuple[int, int]:
    numbers = short(version)
    return numbers[0], numbers[1]


def _name(package: str, version: str, torch: Dict[str, Any]) -> str:
    abi = "TRUE" if torch.get("abi", True) else "FALSE"
    tag = "cp3{}".format(sys.version_info[1])
    minor = "{}.{}".format(*_minor(torch["version"]))
    return "{}-{}+cu{}torch{}cxx11abi{}-{}-{}-linux_{}.whl".format(
        package, version, torch["cuda"].split(".")[0], minor, abi, tag, tag, platform.machine()
    )


def _reach(url: str) -> str:
    """ "ok", or what went wrong; asks for the head of the file only."""
    # slow to import, and seldom needed
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url.replace("+", "%2B"), method="HEAD"), timeout=5):
            return "ok"
    except (urllib.error.URLError, OSError) as error:
        return str(getattr(error, "reason", None) or error)
