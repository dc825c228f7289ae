"""pip may not write into this Python."""

from __future__ import annotations

from anymamba.doctor.rule import NECESSARY, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM123",
    cause="no-write-permission",
    order=13,
    title=Text(
        "pip has no permission to write into this Python's folder",
        "pip 没有权限写入该 Python 的目录",
    ),
    why=Text(
        "The system's or a shared Python belongs to root, or files in it were made by another user.",
        "系统或共享的 Python 属于 root，或其中的文件由其他用户创建。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(
            r"Could not install packages due to an (?:OSError|EnvironmentError): \[(?:Errno 13"
            r"|WinError 5)\][^\n]*",
        ),
        Signature(r"PermissionError: \[Errno 13\] Permission denied: '[^'\n]*(?:site|dist)-packages[^'\n]*'"),
        Signature(r"error: could not create '[^'\n]*': Permission denied"),
    ),
    remedies=(
        Remedy(
            Text(
                "Make an environment of your own.",
                "创建自己的虚拟环境。",
            ),
            (
                "python3 -m venv mamba-env",
                "source mamba-env/bin/activate",
                "pip install torch=={torch} --index-url https://download.pytorch.org/whl/{cuda}",
            ),
            powershell=(
                "python -m venv mamba-env",
                "mamba-env\\Scripts\\Activate.ps1",
                "pip install torch=={torch} --index-url https://download.pytorch.org/whl/{cuda}",
            ),
        ),
    ),
)
