"""An incomplete CUDA toolkit: headers."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM026",
    cause="cuda-headers-missing",
    order=330,
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
)
