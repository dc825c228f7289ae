"""The compatibility table as Python values; the facts themselves stand in table.json, with where they come from."""

from __future__ import annotations

import functools
import json
import pkgutil
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

PACKAGES = ("mamba-ssm", "causal-conv1d")
MODULES = {"mamba-ssm": "mamba_ssm", "causal-conv1d": "causal_conv1d"}
REPOSITORIES = {"mamba-ssm": "state-spaces/mamba", "causal-conv1d": "Dao-AILab/causal-conv1d"}
# the newest with wheels that does not pin tilelang and tvm-ffi, which released Mamba-1 and Mamba-2 models do not use
PREFERRED = {"mamba-ssm": "2.3.1", "causal-conv1d": "1.6.1"}


def numbers(version: str) -> Tuple[int, ...]:
    """(2, 2, 6, 3) of "2.2.6.post3" and (2, 8, 0) of "2.8.0+cu128", for comparisons."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0]))


def fits(version: str, requirement: str) -> bool:
    """Whether a version satisfies ">=1.2.0,<1.5.1"; an empty requirement is satisfied by all. A post release is its version for <=."""
    for part in filter(None, (item.strip() for item in requirement.split(","))):
        operator, wanted = re.match(r"(===?|~=|!=|>=|<=|>|<|)\s*(.*)", part).groups()  # type: ignore[union-attr]
        if not _holds(version, operator or "==", wanted):
            return False
    return True


def _holds(version: str, operator: str, wanted: str) -> bool:
    if wanted.endswith(".*"):
        stem = numbers(wanted[:-2])
        same = numbers(version)[: len(stem)] == stem
        return same if operator == "==" else not same
    here, there = _padded(version), _padded(wanted)
    if operator in ("==", "==="):
        return here == there
    if operator == "~=":
        return here >= there and numbers(version)[: len(numbers(wanted)) - 1] == numbers(wanted)[:-1]
    compared = {"!=": here != there, ">=": here >= there, ">": here > there, "<": here < there, "<=": here <= there}
    return compared[operator]


def _padded(version: str) -> Tuple[int, ...]:
    return (numbers(version) + (0, 0, 0, 0))[:4]


class Wheels(NamedTuple):
    """Files that a release has for one torch and one kind of processor; cuda: as in the files' names ("12", or "122" of old ones).

    pythons: first and last minor version of Python 3; abi: "TRUE", "FALSE" (C++11 ABI); nightly: built with a torch before its release.
    """

    torch: str
    machine: str
    pythons: Tuple[int, int]
    cuda: Tuple[str, ...]
    abi: Tuple[str, ...]
    nightly: bool


class Release(NamedTuple):
    """tag: of the wheels on the release page; sources: whether the archive on PyPI can be compiled.

    nvcc: CUDA major version to the CUDA version with which the wheels were built; archs: what setup.py compiles for, and when.
    needs: what it requires of other packages besides torch; conv: the causal-conv1d that a mamba-ssm works with.
    """

    package: str
    version: str
    tag: str
    date: str
    pypi: bool
    sources: bool
    glibc: Tuple[int, ...]
    nvcc: Dict[str, str]
    archs: Dict[str, List[int]]
    wheels: Tuple[Wheels, ...]
    needs: Dict[str, str]
    conv: str

    def codes(self, nvcc: str) -> List[int]:
        """Compute capabilities (89 is 8.9) that this release's setup.py compiles for with an nvcc of that version."""
        compiled = []
        for condition, archs in self.archs.items():
            until = condition.startswith("until ")
            bound = numbers(condition.replace("until ", ""))[:2]
            if condition == "always" or (numbers(nvcc)[:2] <= bound if until else numbers(nvcc)[:2] >= bound):
                compiled += archs
        return sorted(compiled)


class Torch(NamedTuple):
    """A minor version of torch: its newest release, the triton that it pins, its builds for CUDA as its index names them ("cu128").

    pypi: the build that a plain `pip install` gives on Linux for x86_64.
    """

    minor: str
    newest: str
    triton: Optional[str]
    pythons: Tuple[int, int]
    cuda: Tuple[str, ...]
    pypi: str
    abi: str
    abi_of: Dict[str, str]
    torchvision: Optional[str]


@functools.lru_cache(maxsize=None)
def document() -> Mapping[str, Any]:
    """table.json."""
    text = pkgutil.get_data(__name__, "table.json")
    assert text is not None, "the package's loader gives no files"
    return dict(json.loads(text.decode("utf-8")))


@functools.lru_cache(maxsize=None)
def releases(package: str) -> Tuple[Release, ...]:
    """From the oldest to the newest."""
    return tuple(_release(package, item) for item in document()["releases"][package])


def release(package: str, version: str) -> Optional[Release]:
    """None where the table does not know it."""
    return next((item for item in releases(package) if item.version == version), None)


@functools.lru_cache(maxsize=None)
def torches() -> Tuple[Torch, ...]:
    """From the oldest to the newest."""
    return tuple(
        Torch(
            item["torch"],
            item["newest"],
            item["triton"],
            (item["pythons"][0], item["pythons"][1]),
            tuple(item["cuda"]),
            item["pypi"],
            item["abi"],
            item.get("abi of", {}),
            item.get("torchvision"),
        )
        for item in document()["torch"]
    )


def torch(minor: str) -> Optional[Torch]:
    return next((item for item in torches() if item.minor == minor), None)


def torch_runs(build: str, arch: int) -> bool:
    """Whether torch's binaries for "cu128" have code for a compute capability: a cubin runs on later ones of the same generation."""
    return any(code // 10 == arch // 10 and code <= arch for code in document()["torch archs"].get(build, ()))


def runs(codes: List[int], arch: int) -> bool:
    """The same for a list of compiled compute capabilities."""
    return any(code // 10 == arch // 10 and code <= arch for code in codes)


def image(name: str) -> Optional[Dict[str, Any]]:
    """A notebook service or container by its name in the table: {"name", "title", "source", "facts"}."""
    return next((item for item in document()["images"] if item["name"] == name.lower()), None)


def images() -> List[str]:
    return [item["name"] for item in document()["images"]]


def built(torch_minor: str, mamba: str, conv: str) -> Optional[str]:
    """Where it can be read that these were compiled together; None where nothing is known."""
    known = {"torch": torch_minor, "mamba-ssm": mamba, "causal-conv1d": conv}
    return next((item["source"] for item in document()["built"] if {key: item[key] for key in known} == known), None)


def _release(package: str, item: Dict[str, Any]) -> Release:
    needs = dict(item.get("needs", {}))
    if item.get("transformers"):
        needs["transformers"] = item["transformers"]
    return Release(
        package,
        item["version"],
        item["tag"],
        item["date"],
        item["pypi"],
        item["sources"],
        numbers(item["glibc"]),
        item["nvcc"],
        item["archs"],
        tuple(
            Wheels(
                row["torch"],
                row["machine"],
                (row["pythons"][0], row["pythons"][1]),
                tuple(row["cuda"]),
                tuple(row["abi"]),
                row.get("nightly", False),
            )
            for row in item["wheels"]
        ),
        needs,
        item.get("causal-conv1d", ""),
    )
