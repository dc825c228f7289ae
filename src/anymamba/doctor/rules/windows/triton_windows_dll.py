"""Triton is installed on Windows and its library does not load."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import NECESSARY, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM113",
    cause="triton-windows-dll",
    order=53,
    title=Text(
        "Triton is installed, and its library libtriton does not load: the Visual C++ runtime is missing, or it "
        "is for another Python or torch",
        "Triton 已安装，但其 libtriton 无法加载：缺少 Visual C++ 运行库，或与 Python、torch 版本不符",
    ),
    why=Text(
        "triton-windows needs Microsoft's Visual C++ runtime, and a version made for the installed torch (torch "
        "2.7: 3.3, 2.8: 3.4, 2.9: 3.5).",
        "triton-windows 需要微软的 Visual C++ 运行库，且版本须与 torch 对应（torch 2.7：3.3，2.8：3.4，2.9：3.5）"
        "。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(r"DLL load failed while importing libtriton", bare=True),
        Signature(r"libtriton\S*\.pyd[^\n]*(?:cannot|could not|找不到|无法)"),
    ),
    remedies=(
        Remedy(
            Text(
                "Install the runtime, then the version that belongs to this torch.",
                "安装运行库，再安装与当前 torch 对应的版本。",
            ),
            (
                "winget install Microsoft.VCRedist.2015+.x64",
                'pip install -U "{triton_windows}"',
            ),
            systems=("windows",),
        ),
        advice.USE_ANYMAMBA,
    ),
)
