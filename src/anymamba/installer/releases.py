"""What each release of the official packages needs and offers.

Sources: setup.py, pyproject.toml and .github/workflows/publish.yaml at the release tags of state-spaces/mamba and
Dao-AILab/causal-conv1d. The workflow says which wheels were meant to be built; a few of them are missing on the release pages.
"""

from __future__ import annotations

from dataclasses import dataclass

REPOSITORIES = {"mamba-ssm": "state-spaces/mamba", "causal-conv1d": "Dao-AILab/causal-conv1d"}
MODULES = {"mamba-ssm": "mamba_ssm", "causal-conv1d": "causal_conv1d"}
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

# one entry per torch minor version: the CUDA majors and C++11 ABIs that have wheels
_BOTH, _NEW = ("FALSE", "TRUE"), ("TRUE",)
_TO_27 = dict.fromkeys(("2.4", "2.5", "2.6", "2.7"), (("11", "12"), _BOTH))
_TO_25 = dict.fromkeys(("2.1", "2.2", "2.3", "2.4", "2.5"), (("11", "12"), _BOTH))
_TO_210 = {
    "2.6": (("11", "12"), _BOTH),
    "2.7": (("11", "12"), _NEW),
    "2.8": (("12",), _NEW),
    "2.9": (("12", "13"), _NEW),
    "2.10": (("12", "13"), _NEW),
}
_TO_29 = dict.fromkeys(("2.5", "2.6", "2.7", "2.8", "2.9"), (("11", "12"), _BOTH))

_MAMBA_NEEDS = ("einops", "transformers", "packaging", "ninja", "setuptools>=61.0.0")
_X86, _ANY = ("x86_64",), ("x86_64", "aarch64")


@dataclass(frozen=True)
class Release:
    """tag: of the wheels on the release page. needs: Python packages at run time besides torch and triton.

    minutes: of processor time that its files take with one architecture, all of them and the longest one.
    pythons: first and last minor version of Python 3 with wheels. glibc: oldest for the wheels. files: sources compiled.
    source: whether the archive on PyPI holds the sources; triton: oldest it accepts. oldest_arch: lowest compute capability.
    """

    package: str
    version: str
    tag: str
    pythons: tuple[int, int]
    torches: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    machines: tuple[str, ...] = _X86
    glibc: tuple[int, int] = (2, 32)
    source: bool = True
    needs: tuple[str, ...] = ()
    triton: tuple[int, int] | None = None
    oldest_arch: int = 53
    files: int = 10
    minutes: tuple[float, float] = (20.0, 4.0)


def _mamba(version: str, pythons: tuple[int, int], torches: dict, **other: object) -> Release:  # type: ignore[type-arg]
    return Release("mamba-ssm", version, "v" + version, pythons, torches, **{"needs": _MAMBA_NEEDS, **other})  # type: ignore[arg-type]


def _conv(version: str, pythons: tuple[int, int], torches: dict, tag: str = "", **other: object) -> Release:  # type: ignore[type-arg]
    # measured: scripts/build_check_causal_conv1d.log; the file of the backward kernels takes most of it
    values = {"needs": ("packaging", "ninja"), "files": 4, "minutes": (7.5, 6.0), **other}
    return Release("causal-conv1d", version, tag or "v" + version, pythons, torches, **values)  # type: ignore[arg-type]


_NEWEST_NEEDS = (*_MAMBA_NEEDS, "tilelang==0.1.8", "apache-tvm-ffi<=0.1.9", "quack-kernels>=0.3.4")

RELEASES = (
    _mamba("2.2.4", (9, 13), _TO_25, glibc=(2, 31), source=False),
    _mamba("2.2.5", (9, 13), _TO_27),
    _mamba("2.2.6.post3", (9, 13), _TO_27),
    _mamba("2.3.0", (9, 13), _TO_27, machines=_ANY),
    _mamba("2.3.1", (10, 13), _TO_210, machines=_ANY),
    _mamba("2.3.2.post1", (10, 13), _TO_210, machines=_ANY, needs=_NEWEST_NEEDS, triton=(3, 5), oldest_arch=75),
    # git main: the CUDA kernels are compiled only on request, and there are no wheels
    _mamba("main", (10, 14), {}, needs=_NEWEST_NEEDS, triton=(3, 5), oldest_arch=75, source=False),
    _conv("1.5.0.post8", (9, 13), _TO_25, glibc=(2, 31), source=False),
    _conv("1.5.2", (9, 13), _TO_27),
    _conv("1.5.3.post1", (9, 13), {}, oldest_arch=62),
    # a tag with wheels, but without an archive on PyPI
    _conv("1.5.4", (9, 13), {**_TO_27, **_TO_29}, oldest_arch=62, source=False),
    _conv("1.6.0", (10, 13), _TO_29, machines=_ANY, oldest_arch=62),
    _conv("1.6.1", (10, 13), _TO_210, tag="v1.6.1.post4", machines=_ANY, oldest_arch=62),
    # no wheels of these are known here: compiled
    _conv("1.6.2.post1", (10, 14), {}, oldest_arch=75),
    _conv("1.7.0", (10, 14), {}, oldest_arch=75),
)

# the newest with wheels that does not pin tilelang and tvm-ffi for kernels that no released model uses
PREFERRED = {"mamba-ssm": "2.3.1", "causal-conv1d": "1.6.1"}


def find(package: str, version: str | None) -> Release | None:
    """The release; None where this table does not know it."""
    wanted = version or PREFERRED[package]
    return next((item for item in RELEASES if (item.package, item.version) == (package, wanted)), None)


def versions(package: str) -> list[str]:
    return [item.version for item in RELEASES if item.package == package]
