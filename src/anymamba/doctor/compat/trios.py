"""torch, mamba-ssm and causal-conv1d together: what goes on a machine, the best first, and why."""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from anymamba.doctor.compat import building, table
from anymamba.doctor.compat.building import Toolkit, toolkit_for
from anymamba.doctor.compat.host import Host, number
from anymamba.doctor.compat.reasons import SOURCE, WHEEL, Candidate, cautions, why
from anymamba.doctor.compat.table import PREFERRED, Release, Torch, numbers
from anymamba.doctor.compat.wheels import Build, address, wheel_for
from anymamba.language import _

# processor cores from which on compiling both packages is a matter of minutes
MANY_CORES = 8
# where no wheel is made for a Python, the one that most wheels are made for
USUAL_PYTHON = 12


class Wish(NamedTuple):
    """What a program asks for: releases of mamba-ssm and of causal-conv1d, torch minor versions, Pythons; empty for any.

    cuda: a requirement on torch's CUDA version, kept to where the machine runs such a build.
    """

    mamba: Tuple[str, ...] = ()
    conv: Tuple[str, ...] = ()
    torch: Tuple[str, ...] = ()
    pythons: Tuple[int, ...] = ()
    cuda: str = ""


ANY = Wish()


class Trio(NamedTuple):
    """route: "wheel" when both have one, else "source"; addresses: package to its wheel's.

    torch_index: "cu128" where torch has to be installed; triton: the one that this torch brings; toolkit: for what is compiled.
    needs: what else goes with it, name to requirement; wsl: in WSL2, although the machine runs Windows.
    """

    torch: str
    keeps_torch: bool
    torch_index: Optional[str]
    torchvision: Optional[str]
    python: int
    mamba: Release
    conv: Release
    route: str
    addresses: Dict[str, str]
    triton: Optional[str]
    needs: Dict[str, str]
    toolkit: Optional[Toolkit]
    why: Tuple[str, ...]
    cautions: Tuple[str, ...]
    wsl: bool = False


def trios(host: Host, wish: Wish = ANY) -> List[Trio]:
    """At most a handful, the best first; empty where nothing runs there (``why_none`` says why)."""
    if why_none(host, wish):
        return []
    if host.kind == "windows":
        native = [item for item in _installed(host) if not wish.torch or item.build.minor in wish.torch]
        return _in_wsl(host, wish) + [trio for item in native for trio in _compiled(host, item, wish)]
    here = not wish.pythons or host.python_minor in wish.pythons
    kept = [item for item in _installed(host) if here and (not wish.torch or item.build.minor in wish.torch)]
    wheels_here = [trio for item in kept for trio in _with_wheels(host, item, wish)]
    compiled = [trio for item in kept for trio in _compiled(host, item, wish)]
    if host.ngc:
        return wheels_here + compiled
    if wheels_here:
        # newer GPUs may find no code in them
        compiled = compiled if any(arch >= 100 for arch in host.architectures) else []
        others = [
            trio
            for trio in _others(host, wish, [host.python_minor])
            if number(trio.torch) > number(host.torch["version"])
        ]
        return wheels_here + compiled + others[:1]
    others = _others(host, wish, [host.python_minor])
    if not others:
        others = _others(host, wish, [python for python in _pythons(wish) if python != host.python_minor])
    quick = (
        bool(compiled)
        and host.cores >= MANY_CORES
        and compiled[0].toolkit is not None
        and compiled[0].toolkit.nvcc is not None
    )
    made = compiled + others if quick else others + compiled
    return (
        made or [trio for item in _to_install(host, wish, _pythons(wish)) for trio in _compiled(host, item, wish)][:1]
    )


def _in_wsl(host: Host, wish: Wish) -> List[Trio]:
    """On Windows: Ubuntu 24.04 in WSL2, which sees the same GPU through the same driver."""
    facts = dict(host.facts, torch={"installed": False}, triton={"installed": False}, torchvision=None)
    facts["system"] = dict(host.facts["system"], kind="wsl", machine="x86_64")
    facts["python"] = {"version": "3.12.3", "minor": 12, "environment": "venv", "pip": "24.0"}
    facts["libraries"] = {"glibc": "2.39"}
    facts["cuda"] = dict(host.facts["cuda"], nvccs=[], used=None, home=None)
    where = _("in WSL2, where the Linux wheels run on the same GPU")
    return [trio._replace(wsl=True, why=(where, *trio.why)) for trio in trios(Host(facts), wish)[:1]]


def why_none(host: Host, wish: Wish = ANY) -> Optional[str]:
    """What no choice of versions changes; None where something may go."""
    if host.kind == "macos":
        return _("mamba-ssm and causal-conv1d need CUDA or ROCm; macOS has neither")
    for arch in host.architectures:
        codes = {
            code
            for release in _releases("mamba-ssm", wish.mamba)
            for code in release.codes("12.9") + release.codes("13.0")
        }
        if not table.runs(sorted(codes), arch):
            return _("no release{say} has code for this GPU's compute capability {capability}, compiled or not").format(
                say=_(" that this program takes") if wish.mamba else "",
                capability=building.capability(arch),
            )
    return None


def _installed(host: Host) -> List[Candidate]:
    if host.torch_kind not in ("cuda", "rocm"):
        return []
    return [Candidate(host.torch["version"], None, table.torch(host.torch_minor), Build.of(host))]


def _to_install(host: Host, wish: Wish, pythons: List[int]) -> Iterator[Candidate]:
    """Torches that run on the machine's GPUs and driver, the newest first; of each the build nearest to what is there."""
    if host.torch_kind == "rocm" or host.tegra or host.kind == "macos":
        return
    for row in reversed(table.torches()):
        if wish.torch and row.minor not in wish.torch:
            continue
        for python in pythons:
            if row.pythons[0] <= python <= row.pythons[1]:
                for index in _builds(host, row, wish):
                    cuda = int(index[2:4]), int(index[4:])
                    build = Build(row.minor, cuda, row.abi_of.get(index, row.abi), python)
                    yield Candidate("{}+{}".format(row.newest, index), index, row, build)


def _builds(host: Host, row: Torch, wish: Wish) -> List[str]:
    """Its builds for CUDA that run there: those that the program names, the one that pip gives, then the newest."""
    fitting = [
        index
        for index in row.cuda
        if all(table.torch_runs(index, arch) for arch in host.architectures)
        and (not host.driver_cuda or int(index[2:4]) <= host.driver_cuda)
        # torch has builds with CUDA for ARM servers since these
        and (host.processor != "aarch64" or (number(row.minor) >= (2, 8) and index in ("cu129", "cu130", "cu132")))
    ]

    def rank(index: str) -> Tuple[bool, bool, int]:
        return not table.fits("{}.{}".format(index[2:4], index[4:]), wish.cuda), index != row.pypi, -int(index[2:])

    return sorted(fitting, key=rank)


def _pythons(wish: Wish) -> List[int]:
    """The usual one first, then the nearest to it."""
    return sorted(wish.pythons or range(8, 14), key=lambda minor: (abs(minor - USUAL_PYTHON), minor))


def _others(host: Host, wish: Wish, pythons: List[int]) -> List[Trio]:
    """Wheels for a torch that has to be installed: the two newest torches."""
    made: List[Trio] = []
    for item in _to_install(host, wish, [python for python in pythons if not wish.pythons or python in wish.pythons]):
        if item.version == host.torch.get("version") or any(
            trio.torch.split("+")[0] == item.version.split("+")[0] for trio in made
        ):
            continue
        made += _with_wheels(host, item, wish)[:1]
        if len(made) == 2:
            break
    return made


def _with_wheels(host: Host, item: Candidate, wish: Wish) -> List[Trio]:
    """The preferred release that has wheels for this torch, and a newer one where there is one."""
    made: List[Trio] = []
    for mamba in _releases("mamba-ssm", wish.mamba):
        file, why = wheel_for(host, mamba, None if item.torch_index is None else item.build)
        if not file or not _goes(host, mamba, item, _wheel_cuda(mamba, item)):
            continue
        conv = _conv_with_wheel(host, mamba, item, wish)
        if conv is None:
            continue
        other = wheel_for(host, conv, None if item.torch_index is None else item.build)[0]
        addresses = {"causal-conv1d": address(conv, other or ""), "mamba-ssm": address(mamba, file)}
        if made and numbers(mamba.version) < numbers(made[0].mamba.version):
            break
        made.append(_trio(host, item, mamba, conv, WHEEL, addresses, None, wish))
        if len(made) == 2:
            break
    return made


def _conv_with_wheel(host: Host, mamba: Release, item: Candidate, wish: Wish) -> Optional[Release]:
    for conv in _releases("causal-conv1d", wish.conv):
        build = None if item.torch_index is None else item.build
        if (
            table.fits(conv.version, mamba.conv)
            and wheel_for(host, conv, build)[0]
            and _goes(host, conv, item, _wheel_cuda(conv, item))
        ):
            return conv
    return None


def _compiled(host: Host, item: Candidate, wish: Wish) -> List[Trio]:
    """The preferred release that can be compiled against this torch."""
    toolkit = toolkit_for(host, item.build.cuda) if host.torch_kind != "rocm" else None
    for mamba in _releases("mamba-ssm", wish.mamba):
        if not _goes(host, mamba, item, None) or (toolkit and building.why_not(host, mamba, toolkit.cuda)):
            continue
        for conv in _releases("causal-conv1d", wish.conv):
            if table.fits(conv.version, mamba.conv) and not (toolkit and building.why_not(host, conv, toolkit.cuda)):
                return [_trio(host, item, mamba, conv, SOURCE, {}, toolkit, wish)]
    return []


def _wheel_cuda(release: Release, item: Candidate) -> Optional[str]:
    return release.nvcc.get(str(item.build.cuda[0]))


def _goes(host: Host, release: Release, item: Candidate, wheel_cuda: Optional[str]) -> bool:
    """Whether torch's triton suits the release, and its wheel, if it is one, has code for the GPUs."""
    triton = item.row.triton if item.row else None
    if "triton" in release.needs and not table.fits(triton or "{}.{}.0".format(*host.triton), release.needs["triton"]):
        return False
    return wheel_cuda is None or all(table.runs(release.codes(wheel_cuda), arch) for arch in host.architectures)


def _releases(package: str, wanted: Tuple[str, ...]) -> List[Release]:
    """The preferred one first, then from the newest to the oldest; only the wanted ones, if any are."""
    known = [item for item in reversed(table.releases(package)) if not wanted or item.version in wanted]
    return sorted(known, key=lambda item: item.version != PREFERRED[package])


def _trio(
    host: Host,
    item: Candidate,
    mamba: Release,
    conv: Release,
    route: str,
    addresses: Dict[str, str],
    toolkit: Optional[Toolkit],
    wish: Wish,
) -> Trio:
    keeps = item.torch_index is None
    triton = (host.facts.get("triton") or {}).get("version") if keeps else None
    needs = {name: wanted for name, wanted in mamba.needs.items() if name != "triton"}
    if number(item.version) < (2, 3):
        needs["numpy"] = "<2"
    if number(item.version) < (2, 2):
        needs["transformers"] = "==4.38.2"
    same_place = not keeps and item.build.python == host.python_minor
    vision = item.row.torchvision if item.row and same_place and host.facts.get("torchvision") else None
    return Trio(
        item.version,
        keeps,
        item.torch_index,
        "{}+{}".format(vision, item.torch_index) if vision else None,
        item.build.python,
        mamba,
        conv,
        route,
        addresses,
        triton or (item.row.triton if item.row else None),
        needs,
        toolkit,
        tuple(why(host, item, mamba, conv, route, toolkit, bool(wish.mamba))),
        tuple(cautions(host, item, mamba, route, toolkit)),
    )
