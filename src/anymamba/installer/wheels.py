"""Which prebuilt wheel of a release fits a machine, under which name and address, or why there is none."""

from __future__ import annotations

import re
from typing import NamedTuple

from anymamba.installer.machine import Machine
from anymamba.installer.releases import MODULES, REPOSITORIES, Release
from anymamba.language import say

GITHUB = "https://github.com"


def wheel_for(machine: Machine, release: Release) -> tuple[str | None, str]:
    """(file name, reason) where there is one, (None, why not) elsewhere."""
    problem = _problem(machine, release)
    if problem:
        return None, problem
    tag = f"cp3{machine.python_minor}"
    name = (
        f"{MODULES[release.package]}-{release.version}+cu{machine.torch_cuda[0]}torch{machine.torch_minor}"
        f"cxx11abi{machine.abi}-{tag}-{tag}-linux_{machine.processor}.whl"
    )
    return name, say(
        "a wheel is published for Python 3.{}, torch {}, CUDA {}",
        "有适用于 Python 3.{}、torch {}、CUDA {} 的预编译 wheel",
    ).format(machine.python_minor, machine.torch_minor, machine.torch_cuda[0])


def address(release: Release, name: str, github: str = GITHUB) -> str:
    """Where the file lies; github: the start of the address, another one for a mirror."""
    path = "{}/releases/download/{}/{}".format(REPOSITORIES[release.package], release.tag, name.replace("+", "%2B"))
    return github.rstrip("/") + "/" + path


class Name(NamedTuple):
    """The parts of a wheel's file name; version without what follows a +, made_for the part after it."""

    package: str
    version: str
    made_for: str
    python: str
    platform: str


def parts(file: str) -> Name | None:
    """None for a name that no wheel of the official packages has."""
    found = re.fullmatch(r"([\w.]+)-([\w.!]+)(?:\+([\w.]+))?(?:-\d\w*)?-([\w.]+)-[\w.]+-([\w.]+)\.whl", file)
    if not found:
        return None
    package = found.group(1).lower().replace("_", "-").replace(".", "-")
    return (
        Name(package, found.group(2), found.group(3) or "", found.group(4), found.group(5))
        if package in MODULES
        else None
    )


def fits(machine: Machine, file: str) -> tuple[bool, str]:
    """Whether a wheel file of the user's is made for this machine, by its name: (ok, why not)."""
    name = parts(file)
    if name is None:
        return False, say(
            "it is no wheel file of mamba-ssm or causal-conv1d", "不是 mamba-ssm 或 causal-conv1d 的 wheel 文件"
        )
    if not {f"cp3{machine.python_minor}", "py3"} & set(name.python.split(".")):
        return False, say("it is made for Python {}, here is 3.{}", "它面向 Python {}，本机为 3.{}").format(
            name.python, machine.python_minor
        )
    system = "win_amd64" if machine.kind == "windows" else machine.processor
    if name.platform != "any" and not name.platform.endswith(system):
        return False, say("it is made for {}, here is {}", "它面向 {}，本机为 {}").format(name.platform, system)
    made_for = re.fullmatch(r"cu(\d\d)\d*torch(\d+\.\d+)[\d.]*cxx11abi(TRUE|FALSE)", name.made_for)
    if not made_for:
        return True, ""
    there = (str(machine.torch_cuda[0]), machine.torch_minor, machine.abi or made_for.group(3))
    if made_for.groups() != there:
        return False, say(
            "it is made for CUDA {}, torch {}, C++11 ABI {}; here are {}, {}, {}",
            "它面向 CUDA {}、torch {}、C++11 ABI {}；本机为 {}、{}、{}",
        ).format(*made_for.groups(), *there)
    return True, ""


def _problem(machine: Machine, release: Release) -> str | None:
    if machine.kind not in ("linux", "wsl"):
        return say("wheels are published for Linux only", "只发布了 Linux 版 wheel")
    if machine.torch_kind == "rocm":
        return say("no wheels are published for ROCm", "没有发布 ROCm 版 wheel")
    if machine.tegra:
        return say(
            "the ARM wheels are built for servers, not for Jetson's CUDA",
            "ARM wheel 面向服务器构建，不适用于 Jetson 的 CUDA",
        )
    if machine.ngc:
        return say(
            "this container has a torch of its own, and published wheels are built for others",
            "该容器自带特殊版本的 torch，已发布的 wheel 针对的是其他版本",
        )
    if machine.processor not in release.machines:
        return say("no wheels of {} for {} processors", "{} 没有适用于 {} 处理器的 wheel").format(
            release.version, machine.processor
        )
    if not release.pythons[0] <= machine.python_minor <= release.pythons[1]:
        return say("no wheels of {} for Python 3.{}", "{} 没有适用于 Python 3.{} 的 wheel").format(
            release.version, machine.python_minor
        )
    if machine.torch_minor not in release.torches:
        return say("no wheels of {} for torch {}", "{} 没有适用于 torch {} 的 wheel").format(
            release.version, machine.torch["version"]
        )
    majors, abis = release.torches[machine.torch_minor]
    if str(machine.torch_cuda[0]) not in majors:
        return say("no wheels of {} for torch {} with CUDA {}", "{} 没有适用于 torch {}、CUDA {} 的 wheel").format(
            release.version, machine.torch_minor, machine.torch["cuda"]
        )
    if machine.abi not in abis:
        return say(
            "no wheels of {} for this torch's C++11 ABI ({})", "{} 没有适用于该 torch 的 C++11 ABI（{}）的 wheel"
        ).format(release.version, machine.abi)
    if machine.python_minor == 13 and machine.torch_minor == "2.4":
        return say("no wheels for Python 3.13 with torch 2.4", "没有适用于 Python 3.13 与 torch 2.4 的 wheel")
    if machine.glibc != (0, 0) and machine.glibc < release.glibc:
        return say("its wheels need glibc {}.{}, here is {}.{}", "其 wheel 需要 glibc {}.{}，本机为 {}.{}").format(
            *release.glibc, *machine.glibc
        )
    return None
