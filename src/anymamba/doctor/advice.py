"""Remedies that several rules end in."""

from __future__ import annotations

from anymamba.doctor.rule import Remedy, Text

_LINUX = ("linux", "wsl")

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
CUDA_TORCH = Remedy(
    Text(
        "Replace the CPU build of torch by a CUDA build; the second line must print a CUDA version, not None.",
        "把 CPU 版 torch 换成 CUDA 版；第二条命令应输出 CUDA 版本号，而不是 None。",
    ),
    (
        "pip install --force-reinstall torch=={torch} --index-url https://download.pytorch.org/whl/{cuda}",
        'python -c "import torch; print(torch.version.cuda)"',
    ),
)
WHEEL_BY_URL = Remedy(
    Text(
        "Without compiling: the release wheels for this torch, CUDA and Python. They need no nvcc.",
        "无需编译：直接安装与此 torch、CUDA、Python 对应的发布版 wheel，不需要 nvcc。",
    ),
    (
        "pip install --no-deps {conv_wheel} {mamba_wheel}",
        'pip install einops packaging "{transformers}"',
    ),
    systems=_LINUX,
)
WHICH_WHEEL = Remedy(
    Text(
        "See which releases have a wheel for this machine's torch, CUDA and Python.",
        "查看哪些版本有适用于本机 torch、CUDA 与 Python 的 wheel。",
    ),
    ("anymamba doctor --compat{when_no_wheel_is_known}",),
    systems=_LINUX,
    places=("", "notebook"),
)
NVCC_CONDA = Remedy(
    Text(
        "Put the toolkit of torch's CUDA version into this conda environment, then build.",
        "把与 torch 的 CUDA 版本一致的工具包装进此 conda 环境，然后构建。",
    ),
    (
        "conda install -y -c nvidia cuda-toolkit={toolkit}",
        "export CUDA_HOME=$CONDA_PREFIX",
        "pip install --no-build-isolation --no-cache-dir {package}",
    ),
    powershell=(
        "conda install -y -c nvidia cuda-toolkit={toolkit}",
        '$env:CUDA_HOME="$env:CONDA_PREFIX\\Library"',
        "pip install --no-build-isolation --no-cache-dir {package}",
    ),
    systems=("linux", "wsl", "windows"),
    managers=("conda",),
)
NVCC_APT = Remedy(
    Text(
        "Install the toolkit of torch's CUDA version (Ubuntu, from NVIDIA's repository), then build.",
        "安装与 torch 的 CUDA 版本一致的工具包（Ubuntu，来自 NVIDIA 软件源），然后构建。",
    ),
    (
        "wget https://developer.download.nvidia.com/compute/cuda/repos/{repository}/cuda-keyring_1.1-1_all.deb",
        "sudo dpkg -i cuda-keyring_1.1-1_all.deb && sudo apt-get update",
        "sudo apt-get install -y cuda-toolkit-{toolkit_dashed}",
        "export CUDA_HOME=/usr/local/cuda-{toolkit} && export PATH=/usr/local/cuda-{toolkit}/bin:$PATH && nvcc -V",
        "pip install --no-build-isolation --no-cache-dir {package}",
    ),
    systems=_LINUX,
    managers=("pip", "uv", "poetry"),
    places=("", "notebook"),
)
NVCC_WINDOWS = Remedy(
    Text(
        "Install the toolkit of torch's CUDA version, open a new shell and show the build where it is. The sources then still need"
        " the changes for Visual C++.",
        "安装与 torch 的 CUDA 版本一致的工具包，重开终端并告诉构建它的位置。之后源码仍须针对 Visual C++ 修改。",
    ),
    (),
    (
        "winget install Nvidia.CUDA --version {toolkit}",
        '$env:CUDA_HOME="C:\\Program Files\\NVIDIA GPU Computing Toolkit\\CUDA\\v{toolkit}"',
        "pip install --no-build-isolation {package}",
    ),
    systems=("windows",),
    managers=("pip", "uv", "poetry"),
)
DEVEL_IMAGE = Remedy(
    Text(
        "Begin the Dockerfile with an image that has nvcc: its name contains devel.",
        "Dockerfile 以带有 nvcc 的镜像开头：名称含 devel。",
    ),
    (
        "FROM pytorch/pytorch:{image}",
        "pip install --no-build-isolation --no-cache-dir {package}",
    ),
    systems=_LINUX,
    places=("dockerfile",),
)
REBUILD = Remedy(
    Text(
        "Remove both packages and compile them for the torch that you have now, without pip's cache (needs nvcc).",
        "卸载这两个包，并针对当前的 torch 重新编译，不使用 pip 缓存（需要 nvcc）。",
    ),
    (
        "pip uninstall -y mamba-ssm causal-conv1d",
        "pip install -U setuptools wheel packaging ninja",
        "MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir"
        " {conv_source} {mamba_source}",
    ),
    systems=_LINUX,
)
RIGHT_WHEEL = Remedy(
    Text(
        "Reinstall without isolation and without the cache, so that the wheel for this torch is chosen.",
        "关闭隔离、不用缓存重新安装，使其选择与当前 torch 匹配的 wheel。",
    ),
    (
        'python -c "import torch; print(torch.__version__, torch.version.cuda, torch._C._GLIBCXX_USE_CXX11_ABI)"',
        "pip uninstall -y mamba-ssm causal-conv1d",
        "pip install --no-build-isolation --no-cache-dir {packages}",
    ),
    systems=_LINUX,
)
FROM_GIT = Remedy(
    Text(
        "Build from the git tag, which has the sources.",
        "从带有源码的 git 标签构建。",
    ),
    ("pip install --no-build-isolation {conv_git} {mamba_git}",),
    systems=("linux", "wsl", "windows"),
)
USE_ANYMAMBA = Remedy(
    Text(
        "Do without the official packages: anymamba needs no compiler, and its drop-in serves programs that"
        " import mamba_ssm.",
        "不用官方包：anymamba 无需编译器，其替身模块可服务于导入 mamba_ssm 的程序。",
    ),
    ("anymamba dropin enable",),
)
WSL = Remedy(
    Text("Use WSL2, where the Linux wheels work.", "改用 WSL2，可以直接使用 Linux 的 wheel。"),
    ("wsl --install -d Ubuntu-22.04",),
    powershell=("wsl --install -d Ubuntu-22.04",),
    systems=("windows",),
)
