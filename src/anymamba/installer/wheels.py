"""Which prebuilt wheel of a release fits a machine, under which name and address, or why there is none."""

from __future__ import annotations

import re
from typing import NamedTuple

from anymamba.doctor.compat import wheels as compat
from anymamba.doctor.compat.wheels import GITHUB
from anymamba.installer.machine import Machine
from anymamba.installer.releases import MODULES, Release
from anymamba.language import _


def wheel_for(machine: Machine, release: Release) -> tuple[str | None, str]:
    """(file name, reason) where there is one for the torch that is installed, (None, why not) elsewhere."""
    return compat.wheel_for(machine, release.published)


def address(release: Release, name: str, github: str = GITHUB) -> str:
    """Where the file lies; github: the start of the address, another one for a mirror."""
    return compat.address(release.published, name, github)


class Name(NamedTuple):
    """The parts of a wheel's file name; version without what follows a +, made_for the part after it."""

    package: str
    version: str
    made_for: str
    python: str
    platform: str


def parts(file: str) -> Name | None:
    """None for a name that no wheel of the official packages has."""
    match = re.fullmatch(r"([\w.]+)-([\w.!]+)(?:\+([\w.]+))?(?:-\d\w*)?-([\w.]+)-[\w.]+-([\w.]+)\.whl", file)
    if not match:
        return None
    package = match.group(1).lower().replace("_", "-").replace(".", "-")
    return (
        Name(package, match.group(2), match.group(3) or "", match.group(4), match.group(5))
        if package in MODULES
        else None
    )


def fits(machine: Machine, file: str) -> tuple[bool, str]:
    """Whether a wheel file of the user's is made for this machine, by its name: (ok, why not)."""
    name = parts(file)
    if name is None:
        return False, _("it is no wheel file of mamba-ssm or causal-conv1d")
    if not {f"cp3{machine.python_minor}", "py3"} & set(name.python.split(".")):
        return False, _("it is made for Python {python}, here is 3.{python_minor}").format(
            python=name.python, python_minor=machine.python_minor
        )
    system = "win_amd64" if machine.kind == "windows" else machine.processor
    if name.platform != "any" and not name.platform.endswith(system):
        return False, _("it is made for {platform}, here is {system}").format(platform=name.platform, system=system)
    made_for = re.fullmatch(r"cu(\d\d)\d*torch(\d+\.\d+)[\d.]*cxx11abi(TRUE|FALSE)", name.made_for)
    if not made_for:
        return True, ""
    there = (str(machine.torch_cuda[0]), machine.torch_minor, machine.abi or made_for.group(3))
    if made_for.groups() != there:
        return False, _(
            "it is made for CUDA {made_for_cuda}, torch {made_for_torch}, C++11 ABI {made_for_abi}; here are {cuda}, "
            "{torch}, {abi}"
        ).format(
            made_for_cuda=made_for.group(1),
            made_for_torch=made_for.group(2),
            made_for_abi=made_for.group(3),
            cuda=there[0],
            torch=there[1],
            abi=there[2],
        )
    return True, ""



def archive(file: str) -> tuple[str, str] | None:
    """(package, version) of a source archive of one of the official packages by its name; None for any other file."""
    match = re.fullmatch(r"([\w.-]+?)-(\d[\w.]*)\.(?:tar\.gz|zip)", file)
    package = match.group(1).lower().replace("_", "-").replace(".", "-") if match else ""
    return (package, match.group(2)) if match and package in MODULES else None
