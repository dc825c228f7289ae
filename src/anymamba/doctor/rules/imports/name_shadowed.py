"""A file or folder of the user stands before the package."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Against, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM108",
    cause="name-shadowed",
    order=500,
    title=Text(
        "a file or folder with the package's name lies in the way, so Python imports that instead of the package",
        "有同名的文件或文件夹，Python 导入了它而不是真正的包",
    ),
    why=Text(
        "Python looks in the program's folder first. A file called mamba_ssm.py or triton.py, a checkout named "
        "mamba_ssm or causal_conv1d without its compiled part, or the program's own file being imported in a "
        "circle gives this.",
        "Python 先在程序所在目录中查找。名为 mamba_ssm.py 或 triton.py 的文件、名为 mamba_ssm 或 causal_conv1d 且"
        "未编译的源码目录、或循环导入，都会造成这种情况。",
    ),
    needed=Text(
        "Yes: rename it, or run from another folder.",
        "需要：改名，或换个目录运行。",
    ),
    signatures=(
        Signature(r"partially initialized module '(?:mamba_ssm|causal_conv1d)[\w.]*'", own=True),
        Signature(
            r"No module named 'mamba_ssm\.\w+'; 'mamba_ssm' is not a package|'(?:mamba_ssm"
            r"|causal_conv1d)' is not a package",
            own=True,
        ),
        Signature(
            r"cannot import name '(?:Mamba|selective_scan_fn|causal_conv1d_fn"
            r"|causal_conv1d_update)' from '(?:mamba_ssm|causal_conv1d)' \((?:unknown location"
            r"|[^)\n]*(?<!-packages[\\/]mamba_ssm[\\/]__init__\.py)(?<!-packages[\\/]causal_conv1d[\\/]__init"
            r"__\.py))\)",
            own=True,
        ),
        Signature(
            r"(?:partially initialized module '(?:triton|torch|einops)'|'(?:triton|torch"
            r"|einops)' is not a package)",
            bare=True,
        ),
        Signature(
            r"module '(?:mamba_ssm|causal_conv1d)' has no attribute '(?:Mamba|causal_conv1d_fn|__version__)'",
            own=True,
            confidence=LIKELY,
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "See which file Python takes; rename it, or run from elsewhere.",
                "查看 Python 导入的是哪个文件；改名或换目录运行。",
            ),
            (
                "python -c \"import importlib.util as u; print([getattr(u.find_spec(name), 'origin', None) for "
                "name in ('mamba_ssm', 'causal_conv1d', 'triton', 'torch')])\"",
            ),
        ),
    ),
    against=(Against(r"\bfrom mamba import|No module named .mamba.\W", removes=True, near=3),),
)
