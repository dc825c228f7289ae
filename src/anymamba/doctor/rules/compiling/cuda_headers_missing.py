"""An incomplete CUDA toolkit: headers."""

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
    code="AM026",
    cause="cuda-headers-missing",
    order=330,
    title=Text("the CUDA toolkit is incomplete: its headers are missing", "CUDA 工具包不完整：缺少头文件"),
    why=Text(
        "nvcc was found, the headers were not: conda's cuda-nvcc alone, Ubuntu's split packages, or headers in"
        " targets/x86_64-linux/include that the compiler does not search.",
        "找到了 nvcc，却找不到头文件：只装了 conda 的 cuda-nvcc、Ubuntu 的拆分包，或头文件位于编译器不搜索的"
        " targets/x86_64-linux/include。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"(?:fatal error|致命错误) ?[:：]? ?(?:C1083: [^\n]*)?['\"“”‘’]?(?:cuda_runtime(?:_api)?\.h"
            r"|cuda_bf16\.h|cuda_fp16\.h|cuda\.h|cusparse\.h|cublas_v2\.h|cublasLt\.h|cusolver\w*\.h|curand\w*\.h"
            r"|nv/target|cub/\S+|thrust/\S+|crt/\S+|cuda_profiler_api\.h|nvToolsExt\.h|cccl/\S+"
            r"|cuda/std/\S+)[^\n]{0,4}[:：]? ?[^\n]*(?:No such file|没有那个文件|$)"
        ),
        Signature(
            r"cannot open (?:source|include) file:? \"?(?:cuda_runtime\.h|cuda_bf16\.h|cusparse\.h|cublas_v2\.h"
            r"|nv/target|cub/\S+)"
        ),
    ),
    remedies=(
        advice.DEVEL_IMAGE,
        advice.NVCC_CONDA,
        advice.NVCC_APT,
        advice.NVCC_WINDOWS,
        Remedy(
            Text("Or show the compiler where they are.", "或告诉编译器它们在哪里。"),
            ("export CPATH=$CUDA_HOME/targets/x86_64-linux/include:$CPATH",),
            systems=("linux", "wsl"),
        ),
    ),
    links=("https://github.com/ChenHongruixuan/ChangeMamba/issues/8", "https://github.com/MzeroMiko/VMamba/issues/161"),
)
