"""pip install of a module that is only a part of a package."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import ONLY_OFFICIAL, Rule, Signature, Text

RULE = Rule(
    code="AM090",
    cause="module-is-no-package",
    order=490,
    title=Text(
        "selective_scan_cuda, causal_conv1d_cuda and their like are no packages: they are the compiled part of one",
        "selective_scan_cuda、causal_conv1d_cuda 等不是软件包，而是某个包的编译部分",
    ),
    why=Text(
        "No index has a package of that name, so pip finds nothing. selective_scan_cuda comes with mamba-ssm, causal_conv1d_cuda with"
        " causal-conv1d, selective_scan_cuda_core and selective_scan_cuda_oflex with VMamba. When the import fails, the package has to"
        " be repaired; what its error says comes first.",
        "任何软件源都没有这个名字的包，因此 pip 找不到。selective_scan_cuda 随 mamba-ssm 提供，causal_conv1d_cuda 随 causal-conv1d"
        " 提供，selective_scan_cuda_core 与 selective_scan_cuda_oflex 随 VMamba 提供。导入失败时应修复所属的包，先看它的报错。",
    ),
    needed=ONLY_OFFICIAL,
    signatures=(
        Signature(
            r"(?:No matching distribution found for|Could not find a version that satisfies the requirement|No solution found[^\n]*)"
            r" (?:selective[-_]scan[-_]cuda\w*|causal[-_]conv1d[-_]cuda|mamba[-_]simple|selective[-_]scan[-_]\w+)",
            own=True,
        ),
        Signature(r"(?:selective[-_]scan[-_]cuda[-_]?\w*|causal[-_]conv1d[-_]cuda) was not found in the package registry", own=True),
    ),
    remedies=(advice.RIGHT_WHEEL, advice.USE_ANYMAMBA),
    links=("https://github.com/MzeroMiko/VMamba/issues/55",),
)
