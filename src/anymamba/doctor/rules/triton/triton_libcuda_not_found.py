"""Triton cannot link with the driver's library."""

from __future__ import annotations

from anymamba.doctor.rule import (
    LIKELY,
    NECESSARY,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM060",
    cause="triton-libcuda-not-found",
    order=604,
    title=Text("Triton cannot find the driver's library libcuda.so", "Triton 找不到驱动库 libcuda.so"),
    why=Text(
        "Triton compiles a small launcher and links it with libcuda.so. In containers, Colab and WSL only"
        " libcuda.so.1 exists, or it lies in /usr/lib/wsl/lib where the linker does not look.",
        "Triton 会编译一个小的启动器并链接 libcuda.so。在容器、Colab 与 WSL 中往往只有 libcuda.so.1，或位于链接器不"
        "搜索的 /usr/lib/wsl/lib。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(r"cannot find -lcuda(?![a-z])", bare=True),
        Signature(r"libcuda\.so cannot found!", bare=True),
        Signature(r"gcc[^\n]*-lcuda[^\n]*returned non-zero exit status 1"),
        Signature(r"Command '\[?'?/?[\w/.-]*(?:gcc|cc|clang)'?,?[^\n]*-lcuda\b", confidence=LIKELY, bare=True),
        Signature(r"-lcuda'?[\],][^\n]*returned non-zero exit status"),
        Signature(r"Possible files are located at \[[^\]\n]*libcuda|Please create a symlink of libcuda\.so"),
    ),
    remedies=(
        Remedy(
            Text("Tell Triton where it is.", "告诉 Triton 它在哪里。"),
            ("export TRITON_LIBCUDA_PATH=/usr/lib/wsl/lib",),
            systems=("wsl",),
        ),
        Remedy(
            Text(
                "Tell Triton where it is, or give it the name that it looks for.",
                "告诉 Triton 它在哪里，或补上它要找的文件名。",
            ),
            (
                "export TRITON_LIBCUDA_PATH=/usr/lib/x86_64-linux-gnu",
                "sudo ln -s /usr/lib/x86_64-linux-gnu/libcuda.so.1 /usr/lib/x86_64-linux-gnu/libcuda.so",
            ),
            systems=("linux",),
        ),
        Remedy(
            Text("In a container without the driver: start it with the GPU.", "容器中没有驱动时：带 GPU 启动容器。"),
            ("docker run --rm --gpus all nvidia/cuda:12.4.1-base-ubuntu22.04 nvidia-smi",),
            systems=("linux",),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/549", "https://github.com/state-spaces/mamba/issues/123"),
)
