"""Windows headers clash with torch's."""

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
    code="AM037",
    cause="win32-lean-and-mean",
    order=344,
    title=Text("Windows' own headers clash with names in the sources", "Windows 自带的头文件与源码中的名称冲突"),
    why=Text(
        "windows.h brings old names such as byte, min and small along. A define keeps them out.",
        "windows.h 会引入 byte、min、small 等旧名称，加一个宏定义即可避免。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"error C2872: ?['\"“‘]?byte['\"”’]?: ?(?:ambiguous symbol|不明确的符号)"),
        Signature(
            r"['\"“‘]?byte['\"”’]?: ?(?:ambiguous symbol|不明确的符号)|\"byte\" is ambiguous|reference to 'byte' is"
            r" ambiguous"
        ),
        Signature(r"(?:rpcndr\.h|objidl\.h|oaidl\.h|winsock2?\.h|ws2def\.h)\(\d+\): ?error[^\n]*"),
    ),
    remedies=(
        advice.USE_ANYMAMBA,
        Remedy(
            Text(
                'In a checkout, add -DWIN32_LEAN_AND_MEAN to the "cxx" and "nvcc" flags in setup.py, then build.',
                '在源码目录中，把 -DWIN32_LEAN_AND_MEAN 加入 setup.py 的 "cxx" 与 "nvcc" 参数，然后构建。',
            ),
            ("CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation .",),
        ),
    ),
    explains=("log-truncated",),
    links=("https://github.com/state-spaces/mamba/issues/12",),
)
