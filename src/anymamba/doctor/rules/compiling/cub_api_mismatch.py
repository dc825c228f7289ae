"""CUB's internals changed under the source."""

from __future__ import annotations

from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM027",
    cause="cub-api-mismatch",
    order=341,
    title=Text(
        "these sources use parts of CUB that this CUDA version does not have",
        "这些源码用到了该 CUDA 版本中不存在的 CUB 内部接口",
    ),
    why=Text(
        "reverse_scan.cuh uses internal helpers of CUB. CUDA 13 removed cub::LaneId and cub::CTA_SYNC (mamba-ssm"
        " before 2.2.6); forks such as Vim's mamba-1p1p1 fail on cub::WarpMask.",
        "reverse_scan.cuh 使用了 CUB 的内部函数。CUDA 13 移除了 cub::LaneId 与 cub::CTA_SYNC（影响 mamba-ssm 2.2.6"
        " 以前）；Vim 的 mamba-1p1p1 等分支会在 cub::WarpMask 上失败。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"namespace ['\"“]cub['\"”] has no member ['\"“]?(?:WarpMask|LaneId|CTA_SYNC|WARP_\w+|Sum|Max|Log2|\w+)"
        ),
        Signature(r"identifier ['\"“](?:LaneId|CTA_SYNC|WarpMask)['\"”] is undefined"),
        Signature(
            r"(?:['\"“]?(?:WarpMask|LaneId|CTA_SYNC)['\"”]? (?:is not a member of|was not declared)|no member named"
            r" '(?:WarpMask|LaneId|CTA_SYNC)' in namespace)"
        ),
    ),
    remedies=(
        Remedy(
            Text("CUDA 13: use a newer release.", "CUDA 13：使用较新的版本。"),
            ("pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",),
        ),
        Remedy(
            Text(
                "A fork that you must keep: build it with CUDA 11.8 to 12.x.",
                "必须使用某个分支时：用 CUDA 11.8 至 12.x 构建。",
            ),
            ("conda install -y -c nvidia cuda-toolkit=12.4", "export CUDA_HOME=$CONDA_PREFIX", "pip install --no-build-isolation ."),
            managers=("conda",),
        ),
    ),
    explains=("log-truncated",),
    links=("https://github.com/state-spaces/mamba/issues/772", "https://github.com/hustvl/Vim/issues/20"),
)
