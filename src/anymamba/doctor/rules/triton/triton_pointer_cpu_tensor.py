"""A tensor on the CPU or on another GPU."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import (
    LIKELY,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM064",
    cause="triton-pointer-cpu-tensor",
    order=622,
    title=Text(
        "a tensor given to a Triton kernel is on the CPU or on another GPU",
        "传给 Triton 内核的张量位于 CPU 或另一块显卡上",
    ),
    why=Text(
        "Triton launches on the current device. A model on cuda:1, or an input left on the CPU, is out of its reach.",
        "Triton 在当前设备上启动。模型在 cuda:1 或输入留在 CPU 时都无法访问。",
    ),
    needed=Text("Yes: it is an error in the program.", "需要：这是程序中的错误。"),
    signatures=(Signature(r"Pointer argument \(at \d+\) cannot be accessed from Triton \(cpu tensor\?\)", bare=True),
        Signature(
            r"selective_scan_cuda\.(?:fwd|bwd)(?:[^\n]*\n){1,3}?[^\n]*Expected all tensors to be on the same device[^\n]*", own=True
        ),
        Signature(r"mamba_ssm[^\n]*(?:\n[^\n]*){1,4}?Expected all tensors to be on the same device[^\n]*", own=True, confidence=LIKELY),
    ),
    remedies=(
        Remedy(
            Text(
                "Move model and input to the GPU. On several GPUs, select the tensor's device around the call: with"
                " torch.cuda.device(x.device): ...",
                "把模型与输入都移到 GPU。多卡时在调用处选择张量所在设备：with torch.cuda.device(x.device): ...",
            )
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/593",),
)
