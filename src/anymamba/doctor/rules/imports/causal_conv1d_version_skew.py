"""The two packages do not fit each other."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    ONLY_OFFICIAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"TypeError: causal_conv1d_(?:fwd|bwd|update)\(\): incompatible function arguments", own=True),
            Signature(r"cannot import name 'causal_conv1d_\w+'(?: from '?causal_conv1d)?", own=True),
            Signature(r"No module named '?causal_conv1d\.(?:cpp_functions|causal_conv1d_varlen)'?", own=True),
            Signature(
                r"causal_conv1d_(?:fn|update|fwd)\(\) (?:got an unexpected keyword argument|takes|missing \d+"
                r" required)",
                own=True,
            ),
            Signature(r"module 'causal_conv1d_cuda' has no attribute", own=True),
        ),
    )
    if match:
        return match
    unavailable = log.search(r"AssertionError: causal_conv1d_cuda is not available\. Please install causal-conv1d")
    if unavailable:
        installed = log.has(
            r"causal[-_]conv1d(?:==|-|\s+)1\.[0-4]\.|causal[-_]conv1d(?:==|-|\s+)1\.5\.0|causal_conv1d[^\n]*already"
            r"|installed"
        )
        return Match((unavailable.start(),), CERTAIN if installed else LIKELY)
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    mamba, conv = facts["packages"]["mamba_ssm"].get("version"), facts["packages"]["causal_conv1d"].get("version")
    if not mamba or not conv:
        return None
    old_mamba, mamba_number, conv_number = (
        situation.short(mamba) < (1, 2),
        situation.short(mamba),
        situation.short(conv),
    )
    if old_mamba != (conv_number < (1, 2)) or mamba_number >= (2, 2, 5) and conv_number < (1, 5, 1):
        return Match((), CERTAIN, None, ("mamba-ssm {}, causal-conv1d {}".format(mamba, conv),))
    return None


RULE = Rule(
    code="AM050",
    cause="causal-conv1d-version-skew",
    order=428,
    title=Text(
        "the installed versions of mamba-ssm and causal-conv1d do not fit each other",
        "所安装的 mamba-ssm 与 causal-conv1d 版本互不匹配",
    ),
    why=Text(
        "causal-conv1d 1.2.0 changed the arguments of its functions, and mamba-ssm 2.2.5 uses a module that"
        " causal-conv1d has since 1.5.1 only, although its README still says 1.4.0.",
        "causal-conv1d 1.2.0 改变了函数参数；mamba-ssm 2.2.5 起使用的模块只存在于 causal-conv1d 1.5.1 及以后，尽管"
        "其 README 仍写着 1.4.0。",
    ),
    needed=ONLY_OFFICIAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text("mamba-ssm 2.2.5 and newer.", "mamba-ssm 2.2.5 及以后。"),
            ('pip install --no-build-isolation "causal-conv1d>=1.5.1"',),
        ),
        Remedy(
            Text("mamba-ssm 1.2.0 to 2.2.4.", "mamba-ssm 1.2.0 至 2.2.4。"),
            ("pip install --no-build-isolation causal-conv1d==1.4.0",),
        ),
        Remedy(
            Text("mamba-ssm 1.0 and 1.1.", "mamba-ssm 1.0 与 1.1。"),
            ("pip install --no-build-isolation causal-conv1d==1.1.1",),
        ),
    ),
    explains=("causal-conv1d-missing",),
    links=("https://github.com/state-spaces/mamba/issues/257", "https://github.com/Dao-AILab/causal-conv1d/issues/68"),
)
