"""Which releases a remedy names: the pair of packages, the torch index, the toolkit and the image that go with a torch."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

from anymamba.doctor.situation import short


class Pair(NamedTuple):
    """Releases of both packages that fit each other, and the torch and Python minors that both have Linux wheels for.

    conv_tag: the release page that holds the wheels of this causal-conv1d. split: whether wheels come for both C++ ABIs.
    """

    mamba: str
    conv: str
    conv_tag: str
    oldest_torch: Tuple[int, int]
    newest_torch: Tuple[int, int]
    oldest_python: int
    newest_python: int
    exact_cuda: bool

    def covers(self, torch: Tuple[int, ...], python: Optional[int]) -> bool:
        in_python = python is None or self.oldest_python <= python <= self.newest_python
        return self.oldest_torch <= torch[:2] <= self.newest_torch and in_python


# newest first; the first that covers the torch is taken. Matrices of the publishing workflows at each tag.
PAIRS = (
    Pair("2.3.1", "1.6.1", "v1.6.1.post4", (2, 6), (2, 10), 10, 13, False),
    Pair("2.3.0", "1.5.2", "v1.5.2", (2, 4), (2, 7), 9, 13, False),
    Pair("2.2.4", "1.5.0.post8", "v1.5.0.post8", (2, 1), (2, 5), 9, 13, False),
    Pair("2.2.2", "1.4.0", "v1.4.0", (2, 0), (2, 3), 8, 12, True),
)
NEWEST = PAIRS[0]
# the last releases of mamba-ssm 1.x
LAST_ONE = Pair("1.2.2", "1.2.2.post1", "v1.2.2.post1", (1, 12), (2, 3), 7, 12, True)

# torch minor: (newest patch, its usual CUDA, image with nvcc)
_TORCHES = {
    (1, 12): ("1.12.1", "11.6", "1.12.1-cuda11.3-cudnn8-devel"),
    (1, 13): ("1.13.1", "11.7", "1.13.1-cuda11.6-cudnn8-devel"),
    (2, 0): ("2.0.1", "11.8", "2.0.1-cuda11.7-cudnn8-devel"),
    (2, 1): ("2.1.2", "12.1", "2.1.2-cuda12.1-cudnn8-devel"),
    (2, 2): ("2.2.2", "12.1", "2.2.2-cuda12.1-cudnn8-devel"),
    (2, 3): ("2.3.1", "12.1", "2.3.1-cuda12.1-cudnn8-devel"),
    (2, 4): ("2.4.1", "12.4", "2.4.1-cuda12.4-cudnn9-devel"),
    (2, 5): ("2.5.1", "12.4", "2.5.1-cuda12.4-cudnn9-devel"),
    (2, 6): ("2.6.0", "12.4", "2.6.0-cuda12.4-cudnn9-devel"),
    (2, 7): ("2.7.1", "12.8", "2.7.1-cuda12.8-cudnn9-devel"),
    (2, 8): ("2.8.0", "12.8", "2.8.0-cuda12.8-cudnn9-devel"),
    (2, 9): ("2.9.1", "12.8", "2.9.1-cuda12.8-cudnn9-devel"),
    (2, 10): ("2.10.0", "12.8", "2.10.0-cuda12.8-cudnn9-devel"),
}
# CUDA versions for which torch's own index has builds, by torch minor
_INDEXES = {
    (1, 12): ("10.2", "11.3", "11.6"),
    (1, 13): ("11.6", "11.7"),
    (2, 0): ("11.7", "11.8"),
    (2, 1): ("11.8", "12.1"),
    (2, 2): ("11.8", "12.1"),
    (2, 3): ("11.8", "12.1"),
    (2, 4): ("11.8", "12.1", "12.4"),
    (2, 5): ("11.8", "12.1", "12.4"),
    (2, 6): ("11.8", "12.4", "12.6"),
    (2, 7): ("11.8", "12.6", "12.8"),
    (2, 8): ("12.6", "12.8", "12.9"),
    (2, 9): ("12.6", "12.8", "13.0"),
    (2, 10): ("12.6", "12.8", "13.0"),
}
_USUAL = (2, 8)
"""The torch that is named where the log tells none: the newest with wheels for CUDA 12 only, on every card since V100."""


def minor_of(torch: Optional[str]) -> Optional[Tuple[int, int]]:
    """(2, 8) of "2.8.0"."""
    numbers = short(torch) if torch else ()
    return (numbers[0], numbers[1]) if len(numbers) > 1 else None


def pair_for(torch: Optional[str], python: Optional[int] = None, mamba: Optional[str] = None) -> Pair:
    """The pair for this torch; of the line 1.x where the program asks for one. Without a torch, or where no pair has wheels
    for it, the newest one, which compiles against every newer torch."""
    if mamba and short(mamba) < (2,):
        return LAST_ONE if short(mamba) >= (1, 2) else _first_line(mamba)
    number = short(torch) if torch else ()
    if len(number) < 2:
        return NEWEST
    for pair in PAIRS:
        if pair.covers(number, python):
            return pair
    if number < (2, 0):
        return LAST_ONE
    return next((pair for pair in PAIRS if pair.covers(number, None)), NEWEST)


def _first_line(mamba: str) -> Pair:
    return Pair(mamba, "1.1.1", "v1.1.1", (1, 12), (2, 1), 7, 11, True)


def torch_with_cuda(torch: Optional[str], cuda: Optional[str]) -> Tuple[str, str]:
    """(torch version, "cu121"): a build of this torch's minor for this CUDA, as torch's own index has it.

    cuda: of nvcc or of the driver; the newest build that is not newer is taken. Without a torch, one that has wheels for it."""
    minor = minor_of(torch)
    if minor is None or minor not in _INDEXES:
        minor = (2, 9) if cuda and short(cuda) >= (13,) else (2, 5) if cuda and short(cuda) < (12, 6) else _USUAL
    patch, usual, _ = _TORCHES[minor]
    builds = _INDEXES[minor]
    chosen = usual
    if cuda:
        fitting = [build for build in builds if short(build) <= short(cuda)[:2] and build.split(".")[0] == cuda.split(".")[0]]
        older = [build for build in builds if short(build) <= short(cuda)[:2]]
        chosen = (fitting or older or [builds[0]])[-1]
        if not fitting and torch is None and short(cuda) < (12,):
            patch, chosen = _TORCHES[2, 5][0], "11.8"
    exact = torch.split("+")[0] if torch and minor == short(torch)[:2] and len(short(torch)) == 3 and "a" not in torch else patch
    return exact, "cu" + chosen.replace(".", "")


def image_for(torch: Optional[str]) -> str:
    """Tag of pytorch/pytorch with nvcc in it."""
    return _TORCHES.get(minor_of(torch) or _USUAL, _TORCHES[_USUAL])[2]


def toolkit_for(torch: Optional[str], cuda: Optional[str]) -> str:
    """CUDA version whose nvcc goes with this torch: its own, or that of its usual build."""
    if cuda and "." in cuda:
        return ".".join(cuda.split(".")[:2])
    if cuda == "13":
        return "13.0"
    usual = _TORCHES.get(minor_of(torch) or _USUAL, _TORCHES[_USUAL])[1]
    if cuda and usual.split(".")[0] != cuda:
        return {"11": "11.8", "12": "12.8"}.get(cuda, usual)
    return usual


def wheel_urls(pair: Pair, torch: str, cuda: str, python: int, machine: str, new_abi: Optional[bool]) -> Optional[Tuple[str, str]]:
    """Release wheels (mamba-ssm, causal-conv1d) of a pair for a Linux machine; None where there are none."""
    minor = short(torch)[:2]
    major = cuda.split(".")[0]
    if not pair.covers(minor, python) or machine not in ("x86_64", "aarch64"):
        return None
    if machine == "aarch64" and (pair is not NEWEST or minor < (2, 7) or major == "11"):
        return None
    if major == "11" and minor >= (2, 8) or major == "13" and minor < (2, 9) or major not in ("11", "12", "13"):
        return None
    if pair.exact_cuda and (major == "13" or major == "12" and minor < (2, 1)):
        return None
    accelerator = {"11": "cu118", "12": "cu122"}[major] if pair.exact_cuda else "cu" + major
    abi = minor >= (2, 7) or bool(new_abi)
    name = "{}-{}+{}torch{}.{}cxx11abi{}-cp3{}-cp3{}-linux_{}.whl"
    bases = (
        ("https://github.com/state-spaces/mamba/releases/download/v{}/".format(pair.mamba), "mamba_ssm", pair.mamba),
        ("https://github.com/Dao-AILab/causal-conv1d/releases/download/{}/".format(pair.conv_tag), "causal_conv1d", pair.conv),
    )
    mamba, conv = (
        base + name.format(package, version, accelerator, minor[0], minor[1], str(abi).upper(), python, python, machine)
        for base, package, version in bases
    )
    return mamba, conv


def source_of(package: str, version: str) -> str:
    """What pip compiles this release from: its source package, or its git tag where that one lacks the sources."""
    if package == "mamba-ssm":
        complete, repository = short(version) >= (2, 2, 5), "state-spaces/mamba"
    else:
        complete, repository = short(version) >= (1, 5, 2), "Dao-AILab/causal-conv1d"
    return "{}=={}".format(package, version) if complete else "git+https://github.com/{}@v{}".format(repository, version)
