"""Which releases a remedy names, read from the compatibility table: the pair of packages, torch's index, the toolkit, the image."""

from __future__ import annotations

import functools
from typing import NamedTuple, Optional, Tuple

from anymamba.doctor.compat import table
from anymamba.doctor.compat.wheels import address
from anymamba.doctor.situation import short


class Pair(NamedTuple):
    """Releases of both packages that fit each other. wheels: whether both have Linux wheels for the torch that was asked for."""

    mamba: str
    conv: str
    wheels: bool


NEWEST = Pair(table.PREFERRED["mamba-ssm"], table.PREFERRED["causal-conv1d"], True)
LAST_ONE = "1.2.2"
"""The last release of mamba-ssm 1.x."""

# tags of pytorch/pytorch with nvcc, by torch minor
_IMAGES = {
    "1.12": "1.12.1-cuda11.3-cudnn8-devel",
    "1.13": "1.13.1-cuda11.6-cudnn8-devel",
    "2.0": "2.0.1-cuda11.7-cudnn8-devel",
    "2.1": "2.1.2-cuda12.1-cudnn8-devel",
    "2.2": "2.2.2-cuda12.1-cudnn8-devel",
    "2.3": "2.3.1-cuda12.1-cudnn8-devel",
    "2.4": "2.4.1-cuda12.4-cudnn9-devel",
    "2.5": "2.5.1-cuda12.4-cudnn9-devel",
    "2.6": "2.6.0-cuda12.4-cudnn9-devel",
    "2.7": "2.7.1-cuda12.8-cudnn9-devel",
    "2.8": "2.8.0-cuda12.8-cudnn9-devel",
    "2.9": "2.9.1-cuda12.8-cudnn9-devel",
    "2.10": "2.10.0-cuda12.8-cudnn9-devel",
}
_USUAL = "2.8"
"""The torch that is named where the log tells none: with wheels, with code for every card from V100 to RTX 50."""


def minor_of(torch: Optional[str]) -> Optional[str]:
    """ "2.8" of "2.8.0"."""
    numbers = short(torch) if torch else ()
    return "{}.{}".format(*numbers[:2]) if len(numbers) > 1 else None


@functools.lru_cache(maxsize=None)
def pair_for(torch: Optional[str], python: Optional[int] = None) -> Pair:
    """The newest pair with wheels for this torch and Python; without a torch, or where there is none, the newest pair at all: it
    compiles against every newer torch. For an older torch that has wheels for other Pythons only, the pair of those."""
    minor = minor_of(torch)
    if minor is None:
        return NEWEST
    for wanted in (python, None):
        for mamba in _newest_first("mamba-ssm"):
            conv = conv_for(mamba.version, torch, wanted, wheels=True)
            if _has_wheel(mamba, minor, wanted) and conv:
                return Pair(mamba.version, conv, wanted == python)
    return NEWEST._replace(wheels=False)


@functools.lru_cache(maxsize=None)
def conv_for(mamba: str, torch: Optional[str], python: Optional[int] = None, wheels: bool = False) -> Optional[str]:
    """The causal-conv1d that goes with a mamba-ssm: the newest with a wheel for this torch, else (not with wheels) the newest that fits."""
    release = table.release("mamba-ssm", mamba)
    wanted = release.conv if release else _wanted(mamba)
    minor = minor_of(torch)
    fitting = [item for item in _newest_first("causal-conv1d") if table.fits(item.version, wanted)]
    for item in fitting:
        if minor is not None and _has_wheel(item, minor, python):
            return item.version
    if wheels or not fitting:
        return None
    if minor is not None and short(minor) < (2, 4):  # newer ones need torch.library.custom_op
        fitting = [item for item in fitting if short(item.version) < (1, 5, 1)] or fitting
    return fitting[0].version


def unfit(mamba: str, conv: str) -> bool:
    """Whether these releases cannot work together."""
    release = table.release("mamba-ssm", mamba)
    return not table.fits(conv, release.conv if release and release.conv else _wanted(mamba))


def _wanted(mamba: str) -> str:
    """For a release that the table does not know, such as one of a fork."""
    if short(mamba) < (1, 2):
        return ">=1.0.0,<1.2.0"
    return ">=1.2.0,<1.5.1" if short(mamba) < (2, 2, 5) else ">=1.5.1"


def _newest_first(package: str) -> Tuple[table.Release, ...]:
    preferred = table.numbers(table.PREFERRED[package])
    return tuple(item for item in reversed(table.releases(package)) if item.pypi and table.numbers(item.version) <= preferred)


def _has_wheel(release: table.Release, torch_minor: str, python: Optional[int]) -> bool:
    return any(
        row.torch == torch_minor and not row.nightly and (python is None or row.pythons[0] <= python <= row.pythons[1])
        for row in release.wheels
    )


def has_wheel(package: str, version: str, torch: Optional[str]) -> bool:
    """Whether there is a wheel of this release for this torch, on some Python; without a torch, whether there is any."""
    release, minor = table.release(package, version), minor_of(torch)
    if release is None:
        return False
    return bool(release.wheels) if minor is None else _has_wheel(release, minor, None)


def torch_with_cuda(torch: Optional[str], cuda: Optional[str]) -> Tuple[str, str]:
    """(torch version, "cu121"): a build of this torch's minor for this CUDA, as torch's own index has it.

    cuda: of nvcc or of the driver; the newest build that is not newer is taken. Without a torch, one that has wheels for it."""
    known = table.torch(minor_of(torch) or "")
    wanted = short(cuda)[:2] if cuda else ()
    if known is None:
        usual = "2.9" if wanted >= (13,) else _USUAL
        candidates = [item for item in table.torches() if (2, 1) <= short(item.minor) <= short(usual)]
        fitting = [item for item in candidates if not wanted or _index(item, wanted)]
        related = [item for item in candidates if any(name[2:4] == str(wanted[0]) for name in item.cuda)] if wanted else []
        known = (fitting or related or candidates)[-1]
    version = torch.split("+")[0] if torch and minor_of(torch) == known.minor and len(short(torch)) == 3 else known.newest
    if not wanted:
        return version, known.pypi if known.pypi in known.cuda else known.cuda[-1]
    # every driver of a CUDA major version runs builds of the same one
    related_build = next((name for name in known.cuda if name[2:4] == str(wanted[0])), known.cuda[0])
    return version, _index(known, wanted) or related_build


def _index(torch: table.Torch, cuda: Tuple[int, ...]) -> Optional[str]:
    """The newest build of this torch for this CUDA major version that is not newer."""
    builds = [(int(name[2:4]), int(name[4:]), name) for name in torch.cuda]
    fitting = [name for major, minor, name in sorted(builds) if major == cuda[0] and (major, minor) <= tuple(cuda[:2])]
    return fitting[-1] if fitting else None


def image_for(torch: Optional[str]) -> str:
    """Tag of pytorch/pytorch with nvcc in it."""
    return _IMAGES.get(minor_of(torch) or _USUAL, _IMAGES[_USUAL])


def toolkit_for(torch: Optional[str], cuda: Optional[str]) -> str:
    """CUDA version whose nvcc goes with this torch: its own, or that of its usual build."""
    if cuda and "." in cuda:
        return ".".join(cuda.split(".")[:2])
    index = torch_with_cuda(torch, cuda + ".9" if cuda else None)[1]
    return "{}.{}".format(index[2:4], index[4:])


def wheel_urls(pair: Pair, torch: str, cuda: str, python: int, machine: str, new_abi: Optional[bool]) -> Optional[Tuple[str, str]]:
    """Release wheels (mamba-ssm, causal-conv1d) of a pair for a Linux machine; None where there are none."""
    minor = minor_of(torch)
    known = table.torch(minor or "")
    if minor is None or known is None:
        return None
    tag = "cu" + cuda.replace(".", "")
    abi = known.abi_of.get(tag, known.abi) if new_abi is None else str(new_abi).upper()
    urls = []
    for package, version in (("mamba-ssm", pair.mamba), ("causal-conv1d", pair.conv)):
        release = table.release(package, version)
        names = [
            "{}-{}+cu{}torch{}cxx11abi{}-cp3{}-cp3{}-linux_{}.whl".format(
                table.MODULES[package], version, name, minor, abi, python, python, machine
            )
            for row in (release.wheels if release else ())
            if row.torch == minor and row.machine == machine and row.pythons[0] <= python <= row.pythons[1] and abi in row.abi
            for name in row.cuda
            if name[:2] == cuda[:2] and not row.nightly
        ]
        if not names or release is None:
            return None
        urls.append(address(release, names[0]))
    return urls[0], urls[1]


def source_of(package: str, version: str) -> str:
    """What pip compiles this release from: its source package, or its git tag where that one lacks the sources."""
    release = table.release(package, version)
    complete = release.sources if release else short(version) >= ((2, 2, 5) if package == "mamba-ssm" else (1, 5, 2))
    if complete:
        return "{}=={}".format(package, version)
    return "git+https://github.com/{}@v{}".format(table.REPOSITORIES[package], version)
