"""The releases of the official packages that can be installed: the doctor's compatibility table, and what a build of each takes.

The facts and their sources stand in anymamba/doctor/compat/table.json.
"""

from __future__ import annotations

from dataclasses import dataclass

from anymamba.doctor.compat import table
from anymamba.doctor.compat.table import MODULES, PREFERRED, REPOSITORIES, numbers

__all__ = ["EXTENSIONS", "KERNELS", "MODULES", "PREFERRED", "RELEASES", "REPOSITORIES", "Release", "find", "versions"]

EXTENSIONS = {"mamba-ssm": "selective_scan_cuda", "causal-conv1d": "causal_conv1d_cuda"}
# the ops that a package has kernels for, by their names in anymamba.ops
KERNELS = {
    "causal-conv1d": ("causal_conv1d_fn", "causal_conv1d_update"),
    "mamba-ssm": (
        "selective_scan_fn",
        "selective_state_update",
        "mamba_chunk_scan_combined",
        "layer_norm_fn",
        "rms_norm_fn",
    ),
}

_NEEDS = {
    "mamba-ssm": ("einops", "transformers", "packaging", "ninja", "setuptools>=61.0.0"),
    "causal-conv1d": ("packaging", "ninja"),
}
# sources compiled, and minutes of processor time with one architecture: all of them and the longest one.
# causal-conv1d as measured: scripts/build_check_causal_conv1d.log; the file of the backward kernels takes most of it
_WORK = {"mamba-ssm": (10, (20.0, 4.0)), "causal-conv1d": (4, (7.5, 6.0))}


@dataclass(frozen=True)
class Release:
    """published: what the table knows of it. needs: Python packages at run time besides torch and triton; triton: oldest it accepts.

    source: whether the archive on PyPI holds the sources; oldest_arch: lowest compute capability, compiled or in a wheel.
    """

    published: table.Release
    needs: tuple[str, ...]
    triton: tuple[int, int] | None
    source: bool
    oldest_arch: int
    files: int
    minutes: tuple[float, float]

    @property
    def package(self) -> str:
        return self.published.package

    @property
    def version(self) -> str:
        return self.published.version


def _release(item: table.Release) -> Release:
    requirements = dict(item.needs)
    triton = numbers(requirements.pop("triton", ""))[:2]
    # a bound on a package that is needed anyway replaces the plain name
    needs = [name + requirements.pop(name, "") for name in _NEEDS[item.package]]
    needs += [name + bound for name, bound in requirements.items()]
    files, minutes = _WORK[item.package]
    oldest = min(item.codes("11.8") + item.codes("12.9"))
    return Release(item, tuple(needs), (triton[0], triton[1]) if triton else None, item.sources, oldest, files, minutes)


def _main() -> Release:
    """git main: the CUDA kernels are compiled only on request, there are no wheels, and it has no release yet."""
    newest = table.releases("mamba-ssm")[-1]
    return _release(newest._replace(version="main", tag="main", pypi=False, sources=False, wheels=()))


RELEASES = (*map(_release, table.releases("mamba-ssm")), _main(), *map(_release, table.releases("causal-conv1d")))


def find(package: str, version: str | None) -> Release | None:
    """The release; None where this table does not know it."""
    requested = version or PREFERRED[package]
    return next((item for item in RELEASES if (item.package, item.version) == (package, requested)), None)


def versions(package: str) -> list[str]:
    return [item.version for item in RELEASES if item.package == package]
