"""Python.h is not installed."""

from __future__ import annotations

from anymamba.doctor.rule import (
    NECESSARY,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM077",
    cause="python-headers-missing",
    order=331,
    title=Text("Python's C headers (Python.h) are missing", "缺少 Python 的 C 头文件（Python.h）"),
    why=Text(
        "Linux distributions put them into a package of their own. The extension build and Triton's launcher need"
        " them.",
        "Linux 发行版把它们放在单独的软件包里；编译扩展和 Triton 启动器都需要。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(r"(?:fatal error|致命错误)[:：] ?(?:Python\.h|pyconfig\.h|crypt\.h): ?(?:No such file|没有那个文件)"),
        Signature(r"Cannot open include file: ?['\"]Python\.h['\"]|cannot find -lpython3"),
    ),
    remedies=(
        Remedy(
            Text("Debian and Ubuntu.", "Debian 与 Ubuntu。"),
            ("sudo apt-get install -y python3-dev",),
            systems=("linux", "wsl"),
        ),
        Remedy(
            Text("Fedora and RHEL.", "Fedora 与 RHEL。"),
            ("sudo dnf install -y python3-devel",),
            systems=("linux",),
            places=("",),
        ),
        Remedy(
            Text("Or use a conda or uv Python, which has them.", "或使用 conda、uv 提供的 Python，它们自带头文件。"),
            ("uv venv --python {python}",),
        ),
    ),
)
