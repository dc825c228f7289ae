"""transformers says "not installed" of a package that is there and cannot be imported."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    HARMLESS,
    LIKELY,
    Match,
    Remedy,
    Rule,
    Text,
)


def _log(log: Log) -> Optional[Match]:
    says = log.search(
        r"because `?(?:mamba_ssm|mamba-ssm|causal_conv1d|causal-conv1d)`? is not installed|fast path is not"
        r" available because (?:on )?one of|[Mm]amba(?:[-_]ssm)? is not installed\. Please install"
    )
    if not says:
        return None
    broken = log.search(
        r"ImportError: [^\n]*(?:selective_scan_cuda|causal_conv1d_cuda)[^\n]*|undefined symbol: _Z|ImportError:"
        r" libcudart\.so|No module named '?(?:selective_scan_cuda|causal_conv1d_cuda)|DLL load failed while"
        r" importing (?:selective|causal)"
    )
    installation = log.installations.get("mamba-ssm")
    if installation and "Please install" in says.group(0):
        return Match((says.start(), installation.offset) + ((broken.start(),) if broken else ()), CERTAIN if broken else LIKELY)
    listed = log.search(
        r"^(?:mamba[-_]ssm|causal[-_]conv1d)(?:==|\s+)\d\S*$|Requirement already satisfied: (?:mamba[-_]ssm"
        r"|causal[-_]conv1d)|Name: (?:mamba[-_]ssm|causal[-_]conv1d)"
    )
    if broken:
        return Match((says.start(), broken.start()), CERTAIN)
    if listed and "is not installed" in says.group(0):
        return Match((says.start(), listed.start()), LIKELY)
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    packages = facts["packages"]
    if (
        facts["transformers"].get("installed")
        and packages["errors"]
        and (packages["mamba_ssm"].get("installed") or packages["causal_conv1d"].get("installed"))
    ):
        return Match(
            (), CERTAIN, None, tuple("{}: {}".format(name, error) for name, error in packages["errors"].items())
        )
    return None


RULE = Rule(
    code="AM070",
    cause="broken-package-reported-missing",
    order=695,
    title=Text(
        'the package is installed and fails to import; transformers reports that as "not installed"',
        "包已安装但导入失败；transformers 却把它报告为“未安装”",
    ),
    why=Text(
        "From 5.15 on transformers catches every error of `import mamba_ssm` and says only that it is not"
        " installed. Installing it again changes nothing; the true error is in the import.",
        "自 5.15 起，transformers 会捕获 `import mamba_ssm` 的任何错误，只说未安装。重新安装没有用，真正的错误在导"
        "入过程中。",
    ),
    needed=HARMLESS,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text("Print the true error, and give it to this doctor.", "打印真正的错误，并交给本诊断工具。"),
            (
                'python -c "import torch, mamba_ssm, causal_conv1d, selective_scan_cuda, causal_conv1d_cuda" >'
                " import.log 2>&1",
                "anymamba doctor import.log",
            ),
            powershell=(
                'python -c "import torch, mamba_ssm, causal_conv1d, selective_scan_cuda, causal_conv1d_cuda" *>'
                " import.log",
                "anymamba doctor import.log",
            ),
        ),
        Remedy(
            Text(
                "Or remove the broken packages; transformers then runs, and anymamba's drop-in makes it fast.",
                "或卸载损坏的包；transformers 可照常运行，anymamba 的替身模块能让它变快。",
            ),
            ("pip uninstall -y mamba-ssm causal-conv1d", "anymamba dropin enable"),
        ),
    ),
    explains=("transformers-fast-path-warning",),
)
