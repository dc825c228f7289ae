"""Which published wheel of a release fits a torch on a machine, under which name and address, or why there is none."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

from anymamba.doctor.compat.host import Host
from anymamba.doctor.compat.table import MODULES, REPOSITORIES, Release
from anymamba.language import say

GITHUB = "https://github.com"


class Build(NamedTuple):
    """A build of torch: its minor version, CUDA (major, minor) and C++11 ABI ("TRUE", "FALSE" or None: both may be); Python's minor."""

    minor: str
    cuda: Tuple[int, int]
    abi: Optional[str]
    python: int

    @staticmethod
    def of(host: Host) -> "Build":
        """The torch that is installed there."""
        return Build(host.torch_minor, host.torch_cuda, host.abi, host.python_minor)


def wheel_for(host: Host, release: Release, build: Optional[Build] = None) -> Tuple[Optional[str], str]:
    """(file name, reason) where there is one for the torch of the machine, or for another build of torch on it; (None, why not)."""
    problem = _place(host, release) or (_own_torch(host) if build is None else None)
    if problem:
        return None, problem
    build = build or Build.of(host)
    rows = [row for row in release.wheels if row.machine == host.processor]
    if not rows:
        return None, say("no wheels of {} for {} processors", "{} 没有适用于 {} 处理器的 wheel").format(
            release.version, host.processor
        )
    rows = [row for row in rows if row.torch == build.minor]
    if not rows:
        version = build.minor if build.minor != host_minor(host) else host.torch["version"]
        return None, say("no wheels of {} for torch {}", "{} 没有适用于 torch {} 的 wheel").format(
            release.version, version
        )
    rows = [row for row in rows if row.pythons[0] <= build.python <= row.pythons[1]]
    if not rows:
        return None, say(
            "no wheels of {} for Python 3.{} with torch {}", "{} 没有适用于 Python 3.{}、torch {} 的 wheel"
        ).format(release.version, build.python, build.minor)
    named = [(row, name) for row in rows for name in row.cuda if name[:2] == str(build.cuda[0])]
    if not named:
        return None, say(
            "no wheels of {} for torch {} with CUDA {}", "{} 没有适用于 torch {}、CUDA {} 的 wheel"
        ).format(release.version, build.minor, "{}.{}".format(*build.cuda))
    fitting = [(row, name) for row, name in named if build.abi in row.abi]
    if not fitting:
        return None, say(
            "no wheels of {} for this torch's C++11 ABI ({})", "{} 没有适用于该 torch 的 C++11 ABI（{}）的 wheel"
        ).format(release.version, build.abi)
    row, cuda = fitting[0]
    if row.nightly:
        return None, say(
            "the wheels of {} for torch {} were built with a torch before its release",
            "{} 面向 torch {} 的 wheel 是用其发布前的版本构建的",
        ).format(release.version, build.minor)
    tag = "cp3{}".format(build.python)
    name = "{}-{}+cu{}torch{}cxx11abi{}-{}-{}-linux_{}.whl".format(
        MODULES[release.package], release.version, cuda, build.minor, build.abi, tag, tag, host.processor
    )
    return name, say(
        "a wheel is published for Python 3.{}, torch {}, CUDA {}",
        "有适用于 Python 3.{}、torch {}、CUDA {} 的预编译 wheel",
    ).format(build.python, build.minor, build.cuda[0])


def host_minor(host: Host) -> str:
    return host.torch_minor if host.torch.get("installed") else ""


def address(release: Release, name: str, github: str = GITHUB) -> str:
    """Where the file lies; github: the start of the address, another one for a mirror."""
    path = "{}/releases/download/{}/{}".format(REPOSITORIES[release.package], release.tag, name.replace("+", "%2B"))
    return github.rstrip("/") + "/" + path


def _place(host: Host, release: Release) -> Optional[str]:
    """What no torch changes."""
    if host.kind not in ("linux", "wsl"):
        return say("wheels are published for Linux only", "只发布了 Linux 版 wheel")
    if host.tegra:
        return say(
            "the ARM wheels are built for servers, not for Jetson's CUDA",
            "ARM wheel 面向服务器构建，不适用于 Jetson 的 CUDA",
        )
    if not release.wheels:
        return say("no wheels of {} are published", "没有发布 {} 的 wheel").format(release.version)
    if host.glibc != (0, 0) and host.glibc < release.glibc:
        return say("its wheels need glibc {}.{}, here is {}.{}", "其 wheel 需要 glibc {}.{}，本机为 {}.{}").format(
            *(release.glibc + host.glibc)
        )
    return None


def _own_torch(host: Host) -> Optional[str]:
    if host.torch_kind == "missing":
        return say("torch is not installed", "没有安装 torch")
    if host.torch_kind == "rocm":
        return say("no wheels are published for ROCm", "没有发布 ROCm 版 wheel")
    if host.torch_kind == "cpu":
        return say("torch {} has no CUDA", "torch {} 不带 CUDA").format(host.torch["version"])
    if host.ngc:
        return say(
            "this container has a torch of its own, and published wheels are built for others",
            "该容器自带特殊版本的 torch，已发布的 wheel 针对的是其他版本",
        )
    return None
