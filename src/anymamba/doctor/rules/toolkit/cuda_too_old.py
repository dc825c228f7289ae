"""nvcc older than 11.6."""

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
    code="AM007",
    cause="cuda-too-old",
    order=110,
    title=Text("the nvcc that the build found is older than CUDA 11.6", "构建找到的 nvcc 版本低于 CUDA 11.6"),
    why=Text(
        "Often it is not the toolkit that you installed: Ubuntu's package nvidia-cuda-toolkit puts an old nvcc in"
        " /usr/bin. nvidia-smi shows"
        " the CUDA version of the driver, which says nothing about nvcc.",
        "它常常不是你安装的那个工具包：Ubuntu 的 nvidia-cuda-toolkit 会在 /usr/bin 放一个旧的 nvcc。nvidia-smi 显示"
        "的是驱动支持的 CUDA 版本，与 nvcc 无关。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"(?:mamba_ssm|causal_conv1d|selective_scan\w*) is only supported on CUDA 11\.\d+ and above", own=True
        ),
        Signature(
            r"nvcc fatal *: (?:Unknown option '-*(?:threads|generate-dependencies-with-compile|expt-\w+)'"
            r"|Value 'c\+\+1[47]' is not defined for option 'std')"
        ),
        Signature(r"is only supported on CUDA 11\.\d+ and above"),
    ),
    remedies=(
        Remedy(
            Text(
                "Point the build to a newer toolkit and check what it sees.", "把构建指向较新的工具包，并检查其版本。"
            ),
            (
                "which -a nvcc",
                "export CUDA_HOME=/usr/local/cuda-{toolkit} && export PATH=$CUDA_HOME/bin:$PATH && nvcc -V",
            ),
            powershell=("Get-Command nvcc -All", '$env:CUDA_HOME="$env:CUDA_PATH"; nvcc -V'),
        ),
        advice.DEVEL_IMAGE,
        advice.NVCC_CONDA,
        advice.NVCC_APT,
        advice.NVCC_WINDOWS,
        Remedy(
            Text("Remove Ubuntu's old toolkit.", "移除 Ubuntu 自带的旧工具包。"),
            ("sudo apt-get remove nvidia-cuda-toolkit",),
            systems=("linux", "wsl"),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/186", "https://github.com/state-spaces/mamba/issues/323"),
)
