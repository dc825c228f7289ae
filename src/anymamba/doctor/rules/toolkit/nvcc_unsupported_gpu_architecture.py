"""nvcc does not know an architecture that setup.py asks for."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"Unknown CUDA arch \([^)\n]+\) or GPU not supported"),
            Signature(r"nvcc fatal *: Unsupported gpu architecture '(?:compute|sm)_\d+\w?'", bare=True),
            Signature(r"ptxas fatal *: Value 'sm_\d+\w?' is not defined for option 'gpu-name'"),
        ),
    )
    if not match:
        return None
    arch = log.search(
        r"(?:compute|sm)_(\d+)\w?'",
    )
    return match._replace(values={"arch": arch.group(1)} if arch else None)


RULE = Rule(
    code="AM028",
    cause="nvcc-unsupported-gpu-architecture",
    order=340,
    title=Text(
        "nvcc does not know the GPU architecture compute_{arch} that setup.py asks for",
        "nvcc 不认识 setup.py 要求的 GPU 架构 compute_{arch}",
    ),
    why=Text(
        "Old releases ask for architectures that CUDA 13 removed (compute_53 to compute_72: mamba-ssm before 2.2.6,"
        " causal-conv1d before 1.5.3); an old nvcc does not know new ones (compute_90 needs 11.8,"
        " compute_100 and compute_120 need 12.8).",
        "旧版本会要求 CUDA 13 已删除的架构（compute_53 至 compute_72：mamba-ssm 2.2.6 以前，causal-conv1d 1.5.3 以"
        "前）；旧的 nvcc 则不认识新架构（compute_90 需要 11.8，compute_100 与 compute_120 需要 12.8）。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "CUDA 13 and compute_53 to compute_72: use newer releases.",
                "CUDA 13 与 compute_53 至 compute_72：使用较新的版本。",
            ),
            ("pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",),
        ),
        Remedy(
            Text("compute_90 and above: use nvcc 12.8 or newer.", "compute_90 及以上：使用 nvcc 12.8 或更高版本。"),
            (
                "conda install -y -c nvidia cuda-toolkit=12.8",
                "export CUDA_HOME=$CONDA_PREFIX && nvcc -V",
                "pip install --no-build-isolation {package}",
            ),
            managers=("conda",),
        ),
        Remedy(
            Text("compute_90 and above: use nvcc 12.8 or newer.", "compute_90 及以上：使用 nvcc 12.8 或更高版本。"),
            (
                "wget https://developer.download.nvidia.com/compute/cuda/repos/{repository}/cuda-keyring_1.1-1_all.deb",
                "sudo dpkg -i cuda-keyring_1.1-1_all.deb && sudo apt-get update && sudo apt-get install -y cuda-toolkit-12-8",
                "export CUDA_HOME=/usr/local/cuda-12.8 && export PATH=/usr/local/cuda-12.8/bin:$PATH && nvcc -V",
                "pip install --no-build-isolation {package}",
            ),
            systems=("linux", "wsl"),
            managers=("pip", "uv", "poetry"),
        ),
        Remedy(
            Text(
                "A fork: delete the -gencode lines of that architecture in its setup.py.",
                "使用分支时：删除其 setup.py 中该架构的 -gencode 行。",
            )
        ),
    ),
    explains=("log-truncated",),
    links=("https://github.com/ServiceNow/Fast-LLM/pull/416",),
)
