"""Why a torch, mamba-ssm and causal-conv1d go together on a machine, and what to look out for, in sentences."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional

from anymamba.doctor.compat import building, table
from anymamba.doctor.compat.building import Toolkit
from anymamba.doctor.compat.host import Host
from anymamba.doctor.compat.table import PREFERRED, Release, Torch
from anymamba.doctor.compat.wheels import Build, wheel_for
from anymamba.language import _, pgettext

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
        yield _("your torch {version} stays").format(version=item.version)
    elif host.torch_kind == "missing":
        yield _("torch {version} has to be installed").format(version=item.version)
    elif host.torch_kind == "cpu":
        yield _("your torch {version} has no CUDA").format(version=host.torch["version"])
    elif item.build.minor != host.torch_minor:
        yield _("your torch {torch_version} is replaced by {item_version}").format(
            torch_version=host.torch["version"], item_version=item.version
        )
    if item.build.python != host.python_minor:
        yield _("in a new environment with Python 3.{python}").format(python=item.build.python)
    if route == WHEEL:
        yield _(
            "wheels of both are published for Python 3.{python}, torch {minor}, CUDA {cuda}: nothing is compiled"
        ).format(python=item.build.python, minor=item.build.minor, cuda=item.build.cuda[0])
    else:
        file, missing = wheel_for(host, mamba, None if item.torch_index is None else item.build)
        yield pgettext("what has to be done", "compiled") if file else _("compiled: {names}").format(names=missing)
        if toolkit is not None and toolkit.nvcc is not None:
            yield _("with the nvcc {cuda} that is here").format(cuda=toolkit.cuda)
        elif toolkit is not None:
            yield _("an nvcc for CUDA {cuda} has to be installed first").format(cuda=toolkit.cuda)
        source = table.built(item.build.minor, mamba.version, conv.version)
        if source:
            yield _("compiled with torch {minor} before: {source}").format(minor=item.build.minor, source=source)
        if host.kind == "windows":
            return
        yield _(
            "`anymamba install causal-conv1d=={conv_version} mamba-ssm=={mamba_version}` does the same for this GPU "
            "alone, in a fraction of the time"
        ).format(conv_version=conv.version, mamba_version=mamba.version)
    if asked:
        return
    if mamba.version == PREFERRED["mamba-ssm"]:
        yield _("mamba-ssm {version}: the newest without pinned tilelang and apache-tvm-ffi").format(
            version=mamba.version
        )
    elif "tilelang" in mamba.needs:
        yield _("mamba-ssm {version}: the newest, with Mamba-3").format(version=mamba.version)
    for arch in host.architectures:
        if arch < 75 and "tilelang" not in mamba.needs:
            yield _("newer releases have no code for {capability}").format(capability=building.capability(arch))


def cautions(host: Host, item: Candidate, mamba: Release, route: str, toolkit: Optional[Toolkit]) -> Iterator[str]:
    """What may go wrong, or is to be done besides."""
    if route == SOURCE:
        yield from building.cautions(host, item.version, toolkit.cuda if toolkit else "")
    elif any(arch >= 100 for arch in host.architectures):
        yield _(
            "users found no code for Blackwell in published wheels (issue 1019 of mamba): if it says “no kernel "
            "image”, compile"
        )
    if "tilelang" in mamba.needs:
        yield _("it pins tilelang 0.1.8 and apache-tvm-ffi up to 0.1.9: other programs here may want others")
    if item.torch_index is not None and host.container in NOTEBOOKS and item.build.python == host.python_minor:
        yield _("restart the runtime after torch was replaced")
