"""Why a torch, mamba-ssm and causal-conv1d go together on a machine, and what to look out for, in sentences."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional

from anymamba.doctor.compat import building, table
from anymamba.doctor.compat.building import Toolkit
from anymamba.doctor.compat.host import Host
from anymamba.doctor.compat.table import PREFERRED, Release, Torch
from anymamba.doctor.compat.wheels import Build, wheel_for
from anymamba.language import say

WHEEL, SOURCE = "wheel", "source"
NOTEBOOKS = ("Colab", "Kaggle")


class Candidate(NamedTuple):
    """A torch: the installed one (torch_index None) or one to install; version as pip writes it."""

    version: str
    torch_index: Optional[str]
    row: Optional[Torch]
    build: Build


def why(
    host: Host, item: Candidate, mamba: Release, conv: Release, route: str, toolkit: Optional[Toolkit], asked: bool
) -> Iterator[str]:
    """Sentences; asked: whether the program named the release of mamba-ssm itself."""
    if item.torch_index is None:
        yield say("your torch {} stays", "保留现有的 torch {}").format(item.version)
    elif host.torch_kind == "missing":
        yield say("torch {} has to be installed", "须安装 torch {}").format(item.version)
    elif host.torch_kind == "cpu":
        yield say("your torch {} has no CUDA", "现有的 torch {} 不带 CUDA").format(host.torch["version"])
    elif item.build.minor != host.torch_minor:
        yield say("your torch {} is replaced by {}", "现有的 torch {} 换成 {}").format(
            host.torch["version"], item.version
        )
    if item.build.python != host.python_minor:
        yield say("in a new environment with Python 3.{}", "在新的 Python 3.{} 环境中").format(item.build.python)
    if route == WHEEL:
        yield say(
            "wheels of both are published for Python 3.{}, torch {}, CUDA {}: nothing is compiled",
            "两者都有适用于 Python 3.{}、torch {}、CUDA {} 的 wheel：无需编译",
        ).format(item.build.python, item.build.minor, item.build.cuda[0])
    else:
        file, missing = wheel_for(host, mamba, None if item.torch_index is None else item.build)
        yield say("compiled", "需要编译") if file else say("compiled: {}", "需要编译：{}").format(missing)
        if toolkit is not None and toolkit.nvcc is not None:
            yield say("with the nvcc {} that is here", "使用本机的 nvcc {}").format(toolkit.cuda)
        elif toolkit is not None:
            yield say("an nvcc for CUDA {} has to be installed first", "须先安装 CUDA {} 的 nvcc").format(toolkit.cuda)
        source = table.built(item.build.minor, mamba.version, conv.version)
        if source:
            yield say("compiled with torch {} before: {}", "已有人用 torch {} 编译成功：{}").format(
                item.build.minor, source
            )
        if host.kind == "windows":
            return
        yield say(
            "`anymamba install causal-conv1d=={} mamba-ssm=={}` does the same for this GPU alone, in a fraction of the time",
            "`anymamba install causal-conv1d=={} mamba-ssm=={}` 只为本机显卡编译，用时少得多",
        ).format(conv.version, mamba.version)
    if asked:
        return
    if mamba.version == PREFERRED["mamba-ssm"]:
        yield say(
            "mamba-ssm {}: the newest without pinned tilelang and apache-tvm-ffi",
            "mamba-ssm {}：不固定 tilelang 与 apache-tvm-ffi 的最新版本",
        ).format(mamba.version)
    elif "tilelang" in mamba.needs:
        yield say("mamba-ssm {}: the newest, with Mamba-3", "mamba-ssm {}：最新版本，含 Mamba-3").format(mamba.version)
    for arch in host.architectures:
        if arch < 75 and "tilelang" not in mamba.needs:
            yield say("newer releases have no code for {}", "更新的版本没有适用于 {} 的代码").format(
                building.capability(arch)
            )


def cautions(host: Host, item: Candidate, mamba: Release, route: str, toolkit: Optional[Toolkit]) -> Iterator[str]:
    """What may go wrong, or is to be done besides."""
    if route == SOURCE:
        yield from building.cautions(host, item.version, toolkit.cuda if toolkit else "")
    elif any(arch >= 100 for arch in host.architectures):
        yield say(
            "users found no code for Blackwell in published wheels (issue 1019 of mamba): if it says “no kernel image”, compile",
            "有用户发现已发布的 wheel 中没有 Blackwell 代码（mamba 的 issue 1019）：若提示 “no kernel image”，请自行编译",
        )
    if "tilelang" in mamba.needs:
        yield say(
            "it pins tilelang 0.1.8 and apache-tvm-ffi up to 0.1.9: other programs here may want others",
            "它固定 tilelang 0.1.8 与不高于 0.1.9 的 apache-tvm-ffi：其他程序可能需要别的版本",
        )
    if item.torch_index is not None and host.container in NOTEBOOKS and item.build.python == host.python_minor:
        yield say("restart the runtime after torch was replaced", "更换 torch 后请重启运行时")
