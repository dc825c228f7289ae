"""No rule matches. Matched by unknown.py."""

from __future__ import annotations

from anymamba.doctor.rule import (
    Remedy,
    Rule,
    Text,
)

RULE = Rule(
    code="AM099",
    cause="unknown",
    order=999,
    title=Text("no known cause matches this log", "日志与任何已知原因都不相符"),
    why=Text(
        "The doctor knows failures of mamba-ssm and causal-conv1d. This log is about something else, or about a"
        " failure that nobody has described yet; it does not guess.",
        "本工具只了解 mamba-ssm 与 causal-conv1d 的故障。这份日志与它们无关，或是尚无人描述过的故障；它不会瞎猜。",
    ),
    needed=Text(
        "That depends on what failed; anymamba does not need the official packages.",
        "取决于失败的是什么；anymamba 本身不需要官方包。",
    ),
    log=lambda log: None,
    remedies=(
        Remedy(
            Text(
                "If it is about these packages, report it with this text.", "如果与这两个包有关，请附上以下内容报告。"
            ),
            ("anymamba doctor {log} --markdown",),
        ),
    ),
)
