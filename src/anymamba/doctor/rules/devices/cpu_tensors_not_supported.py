"""The official kernels do not run on a CPU."""

from __future__ import annotations

from anymamba.doctor.rule import (
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM065",
    cause="cpu-tensors-not-supported",
    order=620,
    title=Text(
        "the official kernels were called with CPU tensors, which they do not support",
        "官方内核被传入了 CPU 张量，而它们不支持 CPU",
    ),
    why=Text(
        "selective_scan_cuda and causal_conv1d_cuda have no CPU code and no fallback.",
        "selective_scan_cuda 与 causal_conv1d_cuda 没有 CPU 代码，也没有后备实现。",
    ),
    needed=Text(
        "Move the model to the GPU; or use anymamba, which runs on the CPU.",
        "把模型移到 GPU；或使用可在 CPU 上运行的 anymamba。",
    ),
    signatures=(
        Signature(r"Expected (?:u|x|A|B|C|delta|conv_state|weight)\.is_cuda\(\) to be true,? but got false", bare=True),
        Signature(r"Expected \w+\.is_cuda\(\) to be true,? but got false"),
        Signature(
            r"(?:selective_scan|causal_conv1d)\w*[^\n]*(?:CPU tensor|'CPU' backend|only supports CUDA)", own=True
        ),
    ),
    remedies=(
        Remedy(
            Text(
                'In the program: model.to("cuda") and inputs.to("cuda").',
                '在程序中：model.to("cuda") 与 inputs.to("cuda")。',
            )
        ),
        Remedy(
            Text(
                "Without a GPU: run the unchanged program on anymamba.", "没有 GPU 时：用 anymamba 运行未修改的程序。"
            ),
            ("anymamba dropin enable",),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/138", "https://github.com/state-spaces/mamba/issues/741"),
)
