"""No ninja: the build is slow, not broken."""

from __future__ import annotations

from anymamba.doctor.rule import (
    HARMLESS,
    NOTE,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM029",
    cause="ninja-missing",
    order=820,
    role=NOTE,
    title=Text("ninja is missing, so the files are compiled one after the other", "缺少 ninja，源文件将逐个编译"),
    why=Text(
        "torch falls back to distutils, which compiles one file at a time. It only takes longer.",
        "torch 会退回到 distutils，一次只编译一个文件，只是更慢。",
    ),
    needed=HARMLESS,
    signatures=(
        Signature(r"could not find ninja\.?\.? Falling back to using the slow distutils backend"),
        Signature(r"RuntimeError: Ninja is required to load C\+\+ extensions"),
    ),
    remedies=(Remedy(Text("Install it.", "安装它。"), ("pip install ninja",)),),
    links=("https://github.com/zifuwan/Sigma/issues/6",),
)
