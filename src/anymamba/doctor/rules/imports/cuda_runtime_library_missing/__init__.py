"""A library of CUDA that torch brings is not found."""

from __future__ import annotations

from anymamba.doctor.rule import Against, Rule, Signature

RULE = Rule(
    code="AM116",
    cause="cuda-runtime-library-missing",
    order=411,
    signatures=(
        Signature(
            r"lib(?:cudnn\w*|cublas\w*|cusparse\w*|cufft|curand|cusolver\w*|nccl|nvrtc\S*?|nvJitLink|cupti"
            r"|nvToolsExt|cufile)\.so\.[\d.]+: (?:cannot open shared object file|无法打开共享[对目]象文件)", bare=True,
        ),
    ),
    against=(
        Against(r"onnxruntime|tensorflow|paddle|jaxlib|ctranslate2|faster_whisper|cupy", near=8),
    ),
)
