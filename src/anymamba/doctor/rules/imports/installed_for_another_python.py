"""pip put the package into another Python than the one that runs."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor import advice
from anymamba.doctor.installations import environments
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Against, Match, Remedy, Rule, Text


def _log(log: Log) -> Optional[Match]:
    missing = log.search(r"No module named '?mamba[-_]ssm'?(?![\w.])")
    listed = log.installations.get("mamba-ssm")
    if not missing or not listed:
        return None
    places = environments(log.text)
    return Match((missing.start(), listed.offset), CERTAIN if len(places) > 1 else LIKELY)


RULE = Rule(
    code="AM094",
    cause="installed-for-another-python",
    order=438,
    title=Text(
        "mamba-ssm is installed, but in another Python than the one that runs the program",
        "mamba-ssm 已安装，但不在运行该程序的那个 Python 里",
    ),
    why=Text(
        "`pip` on PATH and the `python` of a notebook, an IDE or another environment are different programs. "
        "What one installs, the other does not see.",
        "PATH 上的 `pip` 与 notebook、IDE 或另一环境的 `python` 是不同的程序；前者安装的包后者看不到。",
    ),
    needed=Text(
        "Yes: the program does not find the package.",
        "需要：程序找不到该包。",
    ),
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Compare the two; then install with the Python that runs the program (in a notebook: %pip).",
                "比较两者；然后用运行程序的那个 Python 安装（notebook 中用 %pip）。",
            ),
            (
                'python -c "import sys; print(sys.executable)"',
                "pip --version",
                "python -m pip install --no-build-isolation causal-conv1d{conv_pin} mamba-ssm{mamba_pin}",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    against=(
        Against(r"Uninstalling mamba[-_]ssm|pip uninstall (?:-y )?mamba[-_]ssm"),
    ),
)
