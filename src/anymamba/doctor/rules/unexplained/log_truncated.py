"""Only wrapper lines are left; the cause was cut off. Matched by unknown.py."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Text,
)

RULE = Rule(
    code="AM098",
    cause="log-truncated",
    order=990,
    title=Text(
        "the log ends in wrapper lines; the part with the cause is missing", "日志只剩外层信息，缺少真正原因所在的部分"
    ),
    why=Text(
        "Lines such as \"ninja: build stopped\", \"CalledProcessError: Command '['ninja', '-v']'\" or \"No"
        ' available output" only say that something failed. The cause is the first line with "error" above them.',
        "\"ninja: build stopped\"、\"CalledProcessError: Command '['ninja', '-v']'\"、\"No available output\" 之类"
        '的行只说明有东西失败了。真正原因是其上方第一处 "error"。',
    ),
    needed=OPTIONAL,
    log=lambda log: None,
    remedies=(
        Remedy(
            Text("Record the whole log, and give it to this doctor.", "记录完整日志，再交给本诊断工具。"),
            (
                "pip install -v --no-build-isolation --no-cache-dir {package} > build.log 2>&1",
                "anymamba doctor build.log",
            ),
            powershell=(
                "pip install -v --no-build-isolation --no-cache-dir {package} *> build.log",
                "anymamba doctor build.log",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/857",),
)
