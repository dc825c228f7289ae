"""An old torch with NumPy 2."""

from __future__ import annotations

from anymamba.doctor.rule import (
    LIKELY,
    NECESSARY,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM053",
    cause="numpy2-incompatible",
    order=510,
    title=Text(
        "this torch was built for NumPy 1 and NumPy 2 is installed", "该 torch 针对 NumPy 1 构建，而安装的是 NumPy 2"
    ),
    why=Text("torch 2.2 and older cannot work with NumPy 2.", "torch 2.2 及以前无法与 NumPy 2 一起使用。"),
    needed=NECESSARY,
    signatures=(
        Signature(r"A module that was compiled using NumPy 1\.x cannot be run in"),
        Signature(r"RuntimeError: Numpy is not available"),
        Signature(r"AttributeError: _ARRAY_API not found|_ARRAY_API not found"),
        Signature(r"numpy\.dtype size changed, may indicate binary incompatibility", confidence=LIKELY),
    ),
    remedies=(Remedy(Text("Go back to NumPy 1.", "退回 NumPy 1。"), ('pip install "numpy<2"',)),),
    links=("https://github.com/state-spaces/mamba/issues/40",),
)
