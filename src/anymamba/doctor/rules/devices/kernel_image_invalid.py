"""The driver cannot load a compiled kernel."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import NECESSARY, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM101",
    cause="kernel-image-invalid",
    order=601,
    title=Text(
        "the driver refuses the compiled kernel: it is older than the CUDA that compiled it, or the file is "
        "damaged",
        "驱动拒绝加载编译好的内核：驱动早于编译所用的 CUDA，或文件已损坏",
    ),
    why=Text(
        '"device kernel image is invalid" comes from the driver. Triton\'s ptxas or nvcc was of a newer CUDA than '
        "the driver knows, or a kernel in Triton's cache was made for another GPU or driver.",
        "“device kernel image is invalid”来自驱动：Triton 的 ptxas 或 nvcc 的 CUDA 比驱动新，或 Triton 缓存中的内"
        "核是为另一块显卡或另一版驱动生成的。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(r"(?:CUDA error|Triton Error \[CUDA\]): device kernel image is invalid", bare=True),
        Signature(r"CUDA_ERROR_INVALID_IMAGE|cudaErrorInvalidKernelImage"),
    ),
    remedies=(
        Remedy(
            Text(
                "Empty Triton's cache and try again; then compare the driver's CUDA with torch's.",
                "清空 Triton 缓存后重试；再比较驱动与 torch 的 CUDA 版本。",
            ),
            (
                "rm -rf ~/.triton/cache",
                "nvidia-smi",
                'python -c "import torch; print(torch.__version__, torch.version.cuda)"',
            ),
            powershell=(
                "Remove-Item -Recurse -Force \"$HOME\\.triton\\cache\"",
                "nvidia-smi",
                'python -c "import torch; print(torch.__version__, torch.version.cuda)"',
            ),
        ),
        advice.REBUILD,
    ),
    links=("https://github.com/state-spaces/mamba/issues/386",),
)
