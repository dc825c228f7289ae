"""Remedies that several rules end in."""

from __future__ import annotations

from anymamba.doctor.rule import Remedy, Text

NO_ISOLATION = Remedy(
    Text(
        "Build against the torch that you have: put the build tools into this environment and turn build isolation"
        " off.",
        "使用现有的 torch 构建：把构建工具装进当前环境，并关闭构建隔离。",
    ),
    (
        "pip install -U setuptools wheel packaging ninja",
        "pip install --no-build-isolation --no-cache-dir {package}",
    ),
)
NO_ISOLATION_UV = Remedy(
    Text("The same with uv.", "uv 的写法。"),
    (
        "uv pip install torch setuptools wheel packaging ninja",
        "uv pip install --no-build-isolation {package}",
    ),
)
CUDA_TORCH = Remedy(
    Text(
        "Replace the CPU build of torch by a CUDA build; the second line must print a CUDA version, not None.",
        "把 CPU 版 torch 换成 CUDA 版；第二条命令应输出 CUDA 版本号，而不是 None。",
    ),
    (
        "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{cuda}",
        'python -c "import torch; print(torch.version.cuda)"',
    ),
)
WHEEL_BY_URL = Remedy(
    Text(
        "Without compiling: install the release wheel by its URL (pick the file whose name has your torch, CUDA,"
        " ABI and Python).",
        "无需编译：按网址安装发布页上的 wheel（选择文件名与你的 torch、CUDA、ABI、Python 一致的那个）。",
    ),
    (
        "pip install --no-deps https://github.com/state-spaces/mamba/releases/download/v{mamba}/FILE.whl",
        "pip install --no-deps https://github.com/Dao-AILab/causal-conv1d/releases/download/v{conv}/FILE.whl",
    ),
    systems=("linux", "wsl"),
)
INSTALL_NVCC = Remedy(
    Text(
        "Give the build an nvcc of the same CUDA major version as torch.version.cuda.",
        "为构建提供 nvcc，其 CUDA 主版本须与 torch.version.cuda 相同。",
    ),
    (
        "conda install -c nvidia cuda-toolkit={toolkit}    # in a conda environment; then: export"
        " CUDA_HOME=$CONDA_PREFIX",
        "sudo apt-get install cuda-toolkit-{toolkit_dashed}    # Ubuntu, with NVIDIA's repository",
        "export CUDA_HOME=/usr/local/cuda-{toolkit} && export PATH=$CUDA_HOME/bin:$PATH && nvcc -V",
    ),
    powershell=(
        "winget install Nvidia.CUDA --version {toolkit}",
        '$env:CUDA_HOME="C:\\Program Files\\NVIDIA GPU Computing Toolkit\\CUDA\\v{toolkit}"; &'
        ' "$env:CUDA_HOME\\bin\\nvcc" -V',
    ),
    systems=("linux", "wsl", "windows"),
)
REBUILD = Remedy(
    Text(
        "Remove both packages and build them again for the torch that you have now, without pip's cache.",
        "卸载这两个包，并针对当前的 torch 重新构建，不使用 pip 缓存。",
    ),
    (
        "pip uninstall -y mamba-ssm causal-conv1d",
        "MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir"
        " causal-conv1d mamba-ssm",
    ),
)
RIGHT_WHEEL = Remedy(
    Text(
        "Reinstall without isolation and without the cache, so that the wheel for this torch is chosen.",
        "关闭隔离、不用缓存重新安装，使其选择与当前 torch 匹配的 wheel。",
    ),
    (
        'python -c "import torch; print(torch.__version__, torch.version.cuda, torch._C._GLIBCXX_USE_CXX11_ABI)"',
        "pip uninstall -y mamba-ssm causal-conv1d",
        "pip install --no-build-isolation --no-cache-dir causal-conv1d mamba-ssm",
    ),
)
FROM_GIT = Remedy(
    Text(
        "Build from the git tag, which has the sources.",
        "从带有源码的 git 标签构建。",
    ),
    (
        "pip install --no-build-isolation git+https://github.com/Dao-AILab/causal-conv1d@v{conv}",
        "pip install --no-build-isolation git+https://github.com/state-spaces/mamba@v{mamba}",
    ),
)
USE_ANYMAMBA = Remedy(
    Text(
        "Or do without the official packages: anymamba needs no compiler, and its drop-in serves programs that"
        " import mamba_ssm.",
        "或者不用官方包：anymamba 无需编译器，其替身模块可服务于导入 mamba_ssm 的程序。",
    ),
    ("anymamba dropin --help",),
)
WSL = Remedy(
    Text("Use WSL2, where the Linux wheels work.", "改用 WSL2，可以直接使用 Linux 的 wheel。"),
    ("wsl --install -d Ubuntu-22.04",),
    powershell=("wsl --install -d Ubuntu-22.04",),
    systems=("windows",),
)
