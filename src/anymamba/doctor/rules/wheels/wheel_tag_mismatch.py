"""A wheel for another Python or system, or a renamed file."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM019",
    cause="wheel-tag-mismatch",
    order=200,
    title=Text("this wheel was made for another Python version or platform", "这个 wheel 属于另一个 Python 版本或平台"),
    why=Text(
        "cp310 in the file name means Python 3.10, linux_x86_64 Linux on Intel or AMD, win_amd64 Windows. pip"
        " refuses anything that does not fit, and a"
        " renamed file as well.",
        "文件名中的 cp310 表示 Python 3.10，linux_x86_64 表示 Intel/AMD 上的 Linux，win_amd64 表示 Windows。不匹配"
        "或被改名的文件 pip 都会拒绝。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"(?:mamba|causal)[^\n]*\.whl is not a supported wheel on this platform", own=True),
        Signature(
            r"(?:mamba|causal)[^\n]*\.whl' ?is not compatible|(?:mamba|causal)\S* can't be installed because it"
            r" doesn't have a (?:wheel|source distribution)|(?:mamba|causal)[^\n]*incompatible with the current"
            r" Python",
            own=True,
        ),
        Signature(
            r"Invalid wheel filename[^\n]*(?:mamba|causal)|(?:mamba|causal)[^\n]*\.whl is not a valid wheel filename",
            own=True,
        ),
        Signature(r"A path dependency is incompatible with the current platform: [^\n]*(?:mamba|causal)", own=True),
        Signature(r"\.whl is not a supported wheel on this platform"),
    ),
    remedies=(
        Remedy(
            Text(
                "See what this Python accepts, and choose the file by it; never rename a wheel.",
                "查看当前 Python 接受的标签并据此选择文件；切勿改名。",
            ),
            ("python -V", "pip debug --verbose"),
        ),
        advice.WHEEL_BY_URL,
    ),
    links=("https://github.com/loscrossos/core_zonos/issues/7",),
)
