"""Python files and compiled part of different copies of mamba-ssm."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Against, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM106",
    cause="selective-scan-version-skew",
    order=426,
    title=Text(
        "the Python files and the compiled part come from different copies of mamba-ssm (a fork's and the "
        "official one)",
        "Python 文件与编译部分来自不同的 mamba-ssm（分支版与官方版）",
    ),
    why=Text(
        "selective_scan_cuda.fwd and bwd take other arguments in forks such as Vim's. When one copy was "
        "installed over another, or a program imports mamba_ssm from its own folder, the two do not fit.",
        "Vim 等分支中 selective_scan_cuda.fwd 与 bwd 的参数不同。互相覆盖安装，或程序从自己的目录导入 mamba_ssm "
        "时，二者便不匹配。",
    ),
    needed=Text(
        "Yes, for this program.",
        "对该程序而言需要。",
    ),
    signatures=(
        Signature(r"(?:TypeError: )?(?:fwd|bwd)\(\): incompatible function arguments", own=True),
        Signature(
            r"selective_scan_(?:cuda\.)?(?:fwd|bwd|fn"
            r"|ref)?\(?\)?[^\n]{0,20}(?:incompatible function arguments|takes \d+ positional"
            r"|missing \d+ required)", own=True,
        ),
        Signature(
            r"(?:mamba_inner_fn|selective_scan_fn|MambaInnerFn\.\w+)\(\) (?:missing \d+ required"
            r"|takes (?:from )?\d+|got an unexpected keyword)", own=True, confidence=LIKELY,
        ),
        Signature(r"module 'selective_scan_cuda\w*' has no attribute '\w+'", own=True),
    ),
    remedies=(
        Remedy(
            Text(
                "Remove every copy, then install the one that the program brings, from its folder.",
                "卸载所有副本，再从程序自带的目录安装。",
            ),
            (
                "pip uninstall -y mamba-ssm causal-conv1d",
                "cd mamba && MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir .",
            ),
        ),
        Remedy(
            Text(
                "Or, when the program needs no fork, the official pair.",
                "若程序不需要分支版，则安装官方的一对版本。",
            ),
            (
                "pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir "
                "causal-conv1d=={conv2} mamba-ssm=={mamba2}",
            ),
        ),
    ),
    explains=("causal-conv1d-version-skew",),
    links=("https://github.com/hustvl/Vim/issues/14",),
    against=(
        Against(r"causal_conv1d_(?:fwd|bwd)\(\): incompatible", removes=True, near=1),
    ),
)
