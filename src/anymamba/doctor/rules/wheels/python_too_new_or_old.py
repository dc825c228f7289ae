"""No wheel, and perhaps no release, for this Python."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from anymamba.doctor import situation
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    BRANCH,
    CERTAIN,
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    refused = log.search(
        r"(?:mamba[-_]ssm|causal[-_]conv1d)\S*[^\n]{0,80}requires a different Python|(?:mamba[-_]ssm"
        r"|causal[-_]conv1d)[^\n]{0,120}Requires-Python ?>=? ?3\.\d+"
        r"|Requires-Python ?>=? ?3\.\d+[^\n]{0,120}(?:mamba[-_]ssm|causal[-_]conv1d)"
        r"|(?:mamba[-_]ssm|causal[-_]conv1d)\S* (?:depends on|requires) Python ?[><=]=? ?3"
    )
    if refused:
        return Match((refused.start(),), CERTAIN)
    ignored = match_signatures(
        log,
        (Signature(r"Ignored the following versions that require a different python version: [^\n]*Requires-Python"),),
    )
    if ignored and log.has(r"No matching distribution found for (?:mamba[-_]ssm|causal[-_]conv1d)"):
        return ignored._replace(confidence=CERTAIN)
    wheel = log.facts.get("wheel")
    if wheel:
        number = re.match(r"cp3(\d+)", wheel["python"])
        if number and (int(number.group(1)) >= 14 or int(number.group(1)) <= 7):
            offsets = tuple(situation.first(log, r"Guessing wheel URL: "))
            return Match(offsets, LIKELY, role=BRANCH)
    return None


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    minor = facts["python"]["minor"]
    if facts["gpu"]["nvidia"] and not facts["packages"]["working"] and (minor >= 14 or minor < 10):
        return Match((), LIKELY, None, ("Python 3.{}".format(minor),))
    return None


RULE = Rule(
    code="AM012",
    cause="python-too-new-or-old",
    order=30,
    title=Text(
        "this Python version has no prebuilt wheel of the official packages",
        "官方包没有适用于该 Python 版本的预编译 wheel",
    ),
    why=Text(
        "The wheels of mamba-ssm 2.3.1, 2.3.2.post1 and causal-conv1d 1.6.1 are for Python 3.10 to 3.13. Another"
        " Python leads to a source build that needs nvcc,"
        " or to no release at all (git main of mamba-ssm requires 3.10).",
        "mamba-ssm 2.3.1、2.3.2.post1 与 causal-conv1d 1.6.1 的 wheel 只适用于 Python 3.10 至 3.13。其他版本只能用"
        " nvcc 从源码编译，或根本没有可用版本（mamba-ssm 的 git 主线要求 3.10）。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text("Make an environment with Python {python}.", "新建 Python {python} 环境。"),
            ("conda create -y -n mamba python={python}", "conda activate mamba"),
            managers=("conda",),
        ),
        Remedy(
            Text(
                "Make an environment with Python {python}; uv fetches that Python.",
                "新建 Python {python} 环境；uv 会下载该版本的 Python。",
            ),
            ("pip install uv", "uv venv --python {python} mamba-env", "source mamba-env/bin/activate"),
            powershell=("pip install uv", "uv venv --python {python} mamba-env", "mamba-env\\Scripts\\Activate.ps1"),
            managers=("pip", "poetry"),
        ),
        Remedy(
            Text("Make an environment with Python {python}.", "新建 Python {python} 环境。"),
            ("uv venv --python {python}",),
            managers=("uv",),
        ),
    ),
    explains=("no-prebuilt-wheel",),
    links=("https://github.com/state-spaces/mamba/issues/999",),
)
