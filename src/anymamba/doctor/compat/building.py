"""Whether a release can be compiled for a torch on a machine: with which nvcc, and what is missing for it."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from anymamba.doctor.compat.host import Host, number
from anymamba.doctor.compat.table import Release, numbers, runs
from anymamba.language import _

# (compute capability, CUDA version from which on nvcc knows it)
SINCE = ((121, (12, 9)), (120, (12, 8)), (110, (13, 0)), (103, (12, 9)), (100, (12, 8)), (89, (11, 8)), (80, (11, 0)))
# torch's headers are C++20 from this minor version on, and the packages' setup.py asks the compilers for C++17
CPP20 = (2, 13)


class Toolkit(NamedTuple):
    """nvcc: of the facts, None where one has to be installed first; cuda: its version, or that of the one to install ("12.8")."""

    nvcc: Optional[Dict[str, Any]]
    cuda: str

    @property
    def home(self) -> Optional[str]:
        """The folder that CUDA_HOME must name."""
        if self.nvcc is None:
            return None
        path = self.nvcc["path"].replace("\\", "/")
        return self.nvcc.get("root") or path.rsplit("/bin/", 1)[0]


def toolkit_for(host: Host, cuda: Tuple[int, int]) -> Toolkit:
    """The nvcc that a build against a torch of this CUDA version would use, or the one to install."""
    nvcc = host.nvcc_for(cuda)
    newest = max([since for arch, since in SINCE if arch in host.architectures] + [(0, 0)])
    if nvcc is not None and number(nvcc["version"]) >= newest:
        return Toolkit(nvcc, nvcc["version"])
    return Toolkit(None, "{}.{}".format(*max(cuda, newest if newest[0] == cuda[0] else cuda)))


def why_not(host: Host, release: Release, cuda: str) -> Optional[str]:
    """Why no nvcc of this CUDA version can compile the release for the GPUs of the machine; None where it can."""
    if numbers(cuda)[:2] >= (13, 0) and any(arch < 75 for arch in release.archs["always"]):
        return _("{package} {release} asks nvcc for GPUs that CUDA 13 no longer knows").format(
            package=release.package, release=release.version
        )
    codes = release.codes(cuda)
    for arch in host.architectures:
        if not runs(codes, arch):
            return _("{package} {release} compiles no code for {capability} with CUDA {cuda}").format(
                package=release.package, release=release.version, capability=capability(arch), cuda=cuda
            )
    return None


def cautions(host: Host, torch_version: str, cuda: str) -> List[str]:
    """What is known to go wrong, or is not known to go right."""
    said = []
    if number(torch_version) >= CPP20:
        said.append(
            _(
                "torch {torch_version} is written in C++20 and the packages' setup.py asks for C++17: nobody is known "
                "to have compiled them together"
            ).format(torch_version=torch_version)
        )
    if 103 in host.architectures and numbers(cuda)[:2] >= (13, 0):
        said.append(
            _(
                "causal-conv1d compiled for compute capability 10.3 by nvcc 13 computes wrong numbers (its issue "
                "105): compare results"
            )
        )
    if host.kind == "windows":
        said.append(
            _(
                "upstream does not support Windows: the sources are edited for MSVC first, which `anymamba install` "
                "does; WSL2 is safer"
            )
        )
    return said


def capability(arch: int) -> str:
    """89 as 8.9, 120 as 12.0."""
    return "{}.{}".format(arch // 10, arch % 10)
