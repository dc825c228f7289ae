#!/usr/bin/env bash
# Builds the official mamba-ssm and causal-conv1d from their source archives for the NVIDIA GPU in this machine, both at once and for its
# architecture alone, so that anyone can measure against them: 4 to 7 minutes on 16 cores. The environment's own packages stay as they are.
#
#   benchmarks/build_official.sh TARGET [ARCHIVES]
#   PYTHONPATH=TARGET python -m anymamba bench --device cuda --matrix
#
# TARGET: folder that the packages are put into. ARCHIVES: folder with mamba_ssm-*.tar.gz and causal_conv1d-*.tar.gz; without it pip
# downloads them. Needed: nvcc of the CUDA version of torch, a C++ compiler, and setuptools, wheel, packaging and ninja beside torch.
# PYTHON names the interpreter, JOBS the number of compilers for each package, ARCHITECTURE (90, 120, ...) another one than the GPU's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
python=${PYTHON:-python3}
mkdir -p "$1"
target=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jobs=${JOBS:-$(nproc)}
if [ $# -ge 2 ]; then
    archives=$(cd "$2" && pwd)
else
    archives=$work/archives
    mkdir "$archives"
    for package in mamba-ssm==2.3.2.post1 causal-conv1d==1.7.0; do
        MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE "$python" -m pip download -q --no-deps --no-binary :all: \
            --no-build-isolation "$package" -d "$archives"
    done
fi

# both packages pass a list of eleven architectures of their own: a stand-in for nvcc replaces it
ANYMAMBA_ARCH=${ARCHITECTURE:-$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')}
ANYMAMBA_NVCC=$("$python" -c 'from torch.utils.cpp_extension import CUDA_HOME; print(f"{CUDA_HOME}/bin/nvcc")')
printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$(command -v "$python")" "$here/../src/anymamba/installer/nvcc_one_architecture.py" >"$work/nvcc"
chmod +x "$work/nvcc"
export ANYMAMBA_ARCH ANYMAMBA_NVCC PYTORCH_NVCC="$work/nvcc" MAX_JOBS="$jobs"
export MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE

build() { # archive
    mkdir -p "$work/$1"
    tar -xzf "$archives"/"$1"-*.tar.gz -C "$work/$1" --strip-components 1
    # as installed on this machine, not in an environment of its own: it would be compiled against another torch
    "$python" -m pip install --no-build-isolation --no-deps --no-cache-dir --no-index --upgrade --target "$target" "$work/$1" \
        >"$target/$1.log" 2>&1 || { tail -n 40 "$target/$1.log" >&2; echo "$1 was not built: $target/$1.log" >&2; return 1; }
    echo "$1 built after $SECONDS s" >&2
}

build causal_conv1d &
first=$!
build mamba_ssm &
second=$!
status=0
wait "$first" || status=1
wait "$second" || status=1
exit "$status"
