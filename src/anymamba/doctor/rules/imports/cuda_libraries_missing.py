"""An incomplete CUDA toolkit: libraries at link time."""

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
    code="AM078",
    cause="cuda-libraries-missing",
    order=332,
    title=Text("the linker does not find a library of CUDA or torch", "链接器找不到 CUDA 或 torch 的库"),
    why=Text(
        "The toolkit's lib64 folder is missing or incomplete (conda's cuda-nvcc without cuda-cudart-dev), or on"
        " Windows the wrong Python's libraries are searched.",
        "工具包的 lib64 目录缺失或不完整（只有 conda 的 cuda-nvcc 而没有 cuda-cudart-dev），或在 Windows 上搜索了错"
        "误的 Python 的库。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"cannot find -l(?:cudart|cudadevrt|cudart_static|c10_cuda|torch_cuda|torch_python|nvrtc|cublas|cusparse)\b"
        ),
        Signature(
            r"LINK : fatal error LNK1181: [^\n]*(?:cudart|c10|torch|python\d+)\w*\.lib|LINK : fatal error LNK1104:"
            r" [^\n]*(?:cudart|c10|torch|python\d+)\w*\.lib"
        ),
    ),
    remedies=(
        advice.DEVEL_IMAGE,
        advice.NVCC_CONDA,
        advice.NVCC_APT,
        advice.NVCC_WINDOWS,
        Remedy(
            Text("Or show the linker where they are.", "或告诉链接器它们在哪里。"),
            ("export LIBRARY_PATH=$CUDA_HOME/lib64:$LIBRARY_PATH",),
            systems=("linux", "wsl"),
        ),
    ),
    explains=("log-truncated",),
)
