"""setup.py knows Linux, macOS and Windows by name only."""

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
    code="AM084",
    cause="unsupported-platform",
    order=25,
    title=Text("setup.py does not know this operating system", "setup.py 不认识该操作系统"),
    why=Text(
        "get_platform() accepts linux, darwin and win32; Cygwin, MSYS2, FreeBSD and others stop there.",
        "get_platform() 只接受 linux、darwin 与 win32；Cygwin、MSYS2、FreeBSD 等会在此中止。",
    ),
    needed=OPTIONAL,
    signatures=(Signature(r"ValueError: Unsupported platform: \S+"),),
    remedies=(
        Remedy(
            Text(
                "On Windows use the Python from python.org, not MSYS2's or Cygwin's.",
                "在 Windows 上请使用 python.org 的 Python，而不是 MSYS2 或 Cygwin 的。",
            ),
            ('python -c "import sys; print(sys.platform)"',),
        ),
        advice.USE_ANYMAMBA,
    ),
)
