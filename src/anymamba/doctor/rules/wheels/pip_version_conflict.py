"""pip cannot fit the versions together, often because an image pins them."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, OPTIONAL, Match, Remedy, Rule, Text


def _log(log: Log) -> Optional[Match]:
    if log.has(r"(?:depends on|requires) triton ?>= ?3\.5|(?:depends on|requires) (?:tilelang|apache-tvm-ffi|quack-kernels)"):
        return None  # the release's own pins, which have rules of their own
    names = r"(?:mamba[-_]ssm|causal[-_]conv1d)"
    found = log.search(
        r"Cannot install " + names + r"[^\n]* because these package versions have conflicting dependencies"
        r"|Cannot install [^\n]*" + names + r"[^\n]* because these package versions have conflicting dependencies"
        r"|[Bb]ecause [^\n]*" + names + r"[^\n]*(?:depends on|requires)[^\n]*(?:\n[^\n]*){0,6}?"
        r"(?:unsatisfiable|version solving failed|cannot be used|incompatible)"
    )
    return Match((found.start(),), CERTAIN if "Cannot install" in found.group(0) else LIKELY) if found else None


RULE = Rule(
    code="AM109",
    cause="pip-version-conflict",
    order=56,
    title=Text(
        "pip cannot fit the requested versions together (a constraint file or another package pins torch or "
        "triton)",
        "pip 无法同时满足所要求的版本（约束文件或其他包固定了 torch 或 triton）",
    ),
    why=Text(
        "NVIDIA's containers set PIP_CONSTRAINT to a file that pins every package of the image, and other "
        "requirements may pin torch, triton or transformers. pip then finds no set of versions and gives up.",
        "NVIDIA 的容器把 PIP_CONSTRAINT 指向固定了镜像中所有包的文件；其他依赖也可能固定 torch、triton 或 "
        "transformers。于是 pip 找不到可行的版本组合。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Install the two packages without their dependencies, which are there already, and without the "
                "constraint file.",
                "不带依赖（它们已存在）、也不用约束文件地安装这两个包。",
            ),
            (
                "PIP_CONSTRAINT='' pip install --no-deps --no-build-isolation --no-cache-dir "
                "causal-conv1d=={conv2} mamba-ssm=={mamba2}",
                "pip install einops packaging",
            ),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/589",),
)
