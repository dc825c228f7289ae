"""A library of CUDA that torch brings is not found."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import NECESSARY, Against, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM116",
    cause="cuda-runtime-library-missing",
    order=411,
    title=Text(
        "a CUDA library that comes with torch (cuDNN, cuBLAS, NCCL, NVRTC) is not found",
        "找不到随 torch 提供的 CUDA 库（cuDNN、cuBLAS、NCCL、NVRTC）",
    ),
    why=Text(
        "pip's torch for CUDA keeps these libraries in packages named nvidia-*. They are missing after an "
        "incomplete or --no-deps install, or were never installed because the torch came from conda or from an "
        "image, or another major version of them is there.",
        "pip 版 CUDA torch 把这些库放在 nvidia-* 包中。安装不完整、使用过 --no-deps、torch 来自 conda 或镜像，或"
        "装了另一主版本，都会导致缺失。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(
            r"lib(?:cudnn\w*|cublas\w*|cusparse\w*|cufft|curand|cusolver\w*|nccl|nvrtc\S*?|nvJitLink|cupti"
            r"|nvToolsExt|cufile)\.so\.[\d.]+: (?:cannot open shared object file|无法打开共享[对目]象文件)", bare=True,
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "Install torch with its libraries anew.",
                "连同依赖库重新安装 torch。",
            ),
            (
                "pip install --force-reinstall torch=={torch} --index-url https://download.pytorch.org/whl/{cuda}",
                'python -c "import torch; print(torch.version.cuda, torch.backends.cudnn.version())"',
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    against=(
        Against(r"onnxruntime|tensorflow|paddle|jaxlib|ctranslate2|faster_whisper|cupy", near=8),
    ),
)
