"""Which published wheel of a release fits a torch on a machine, under which name and address, or why there is none."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

from anymamba.doctor.compat.host import Host
from anymamba.doctor.compat.table import MODULES, REPOSITORIES, Release
from anymamba.language import _

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
        return None, _("no wheels of {release} for {processor} processors").format(
            release=release.version, processor=host.processor
        )
    rows = [row for row in rows if row.torch == build.minor]
    if not rows:
        version = build.minor if build.minor != host_minor(host) else host.torch["version"]
        return None, _("no wheels of {release} for torch {version}").format(release=release.version, version=version)
    rows = [row for row in rows if row.pythons[0] <= build.python <= row.pythons[1]]
    if not rows:
        return None, _("no wheels of {release} for Python 3.{python} with torch {minor}").format(
            release=release.version, python=build.python, minor=build.minor
        )
    named = [(row, name) for row in rows for name in row.cuda if name[:2] == str(build.cuda[0])]
    if not named:
        return None, _("no wheels of {release} for torch {minor} with CUDA {format}").format(
            release=release.version, minor=build.minor, format="{}.{}".format(*build.cuda)
        )
    fitting = [(row, name) for row, name in named if build.abi in row.abi]
    if not fitting:
        return None, _("no wheels of {release} for this torch's C++11 ABI ({abi})").format(
            release=release.version, abi=build.abi
        )
    row, cuda = fitting[0]
    if row.nightly:
        return None, _("the wheels of {release} for torch {minor} were built with a torch before its release").format(
            release=release.version, minor=build.minor
        )
    tag = "cp3{}".format(build.python)
    name = "{}-{}+cu{}torch{}cxx11abi{}-{}-{}-linux_{}.whl".format(
        MODULES[release.package], release.version, cuda, build.minor, build.abi, tag, tag, host.processor
    )
    return name, _("a wheel is published for Python 3.{python}, torch {minor}, CUDA {cuda}").format(
        python=build.python, minor=build.minor, cuda=build.cuda[0]
    )


def host_minor(host: Host) -> str:
    return host.torch_minor if host.torch.get("installed") else ""


def address(release: Release, name: str, github: str = GITHUB) -> str:
    """Where the file lies; github: the start of the address, another one for a mirror."""
    path = "{}/releases/download/{}/{}".format(REPOSITORIES[release.package], release.tag, name.replace("+", "%2B"))
    return github.rstrip("/") + "/" + path


def _place(host: Host, release: Release) -> Optional[str]:
    """What no torch changes."""
    if host.kind not in ("linux", "wsl"):
        return _("wheels are published for Linux only")
    if host.tegra:
        return _("the ARM wheels are built for servers, not for Jetson's CUDA")
    if not release.wheels:
        return _("no wheels of {release} are published").format(release=release.version)
    if host.glibc != (0, 0) and host.glibc < release.glibc:
        return _("its wheels need glibc {needed_major}.{needed_minor}, here is {major}.{minor}").format(
            needed_major=release.glibc[0], needed_minor=release.glibc[1], major=host.glibc[0], minor=host.glibc[1]
        )
    return None


def _own_torch(host: Host) -> Optional[str]:
    if host.torch_kind == "missing":
        return _("torch is not installed")
    if host.torch_kind == "rocm":
        return _("no wheels are published for ROCm")
    if host.torch_kind == "cpu":
        return _("torch {version} has no CUDA").format(version=host.torch["version"])
    if host.ngc:
        return _("this container has a torch of its own, and published wheels are built for others")
    return None
