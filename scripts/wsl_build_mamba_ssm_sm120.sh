#!/usr/bin/env bash
# Installs causal-conv1d 1.6.1 (source), mamba-ssm 2.3.1 (source) into the Python environment that is active.
# Written by `anymamba install --emit-script` for:
#   system: Ubuntu 24.04.2 LTS, x86_64, WSL2
#   Python 3.12
#   torch 2.8.0+cu128
#   GPU: NVIDIA GeForce RTX 5090 (12.0)
#   nvcc: 12.8
# Expected: 3 to 15 minutes, up to 27 GB of memory, 3 GB on disk.
# torch 2.8.0+cu128 stays as it is: every installed package is pinned to its version; if that cannot be kept, nothing is installed
# --no-build-isolation: compiled against the torch 2.8.0+cu128 that is installed, not against a newer one that pip would fetch
# MAX_JOBS=5: 16 cores, 31.2 GB of memory, 3 GB a compiler
# the packages are compiled at the same time: neither needs the other for it
# only compute capability 12.0 is compiled. TORCH_CUDA_ARCH_LIST has no effect on these packages, because they pass a -gencode list of their own; a stand-in for nvcc replaces that list
set -euo pipefail

PYTHON="${PYTHON:-python3}"
WORK="$(mktemp -d)"
LOG="${LOG:-$PWD/anymamba-install.log}"
mkdir -p "$WORK/wheels"
trap 'rm -rf "$WORK"' EXIT

# a CPU build of torch cannot be compiled against: stop before anything is done
"$PYTHON" -c 'import sys, torch; sys.exit(None if torch.version.cuda or torch.version.hip else "torch is a CPU build")'

# write down every installed package, so that none can be replaced
"$PYTHON" -m pip list --format=freeze | grep -viE "^(causal[-_]conv1d|mamba[-_]ssm)=" > "$WORK/constraints.txt"

# build requirements, in a folder of their own
"$PYTHON" -m pip install --upgrade --target "$WORK/tools" 'setuptools>=61.0.0' wheel packaging ninja

# a stand-in for nvcc that compiles for sm_120 only (torch takes it from PYTORCH_NVCC)
cat > "$WORK/nvcc_one_architecture.py" <<'END_OF_FILE'
"""Stands for nvcc in a build: passes everything on, but compiles for the GPUs of this machine instead of the package's own list.

torch takes the compiler's name from PYTORCH_NVCC. ANYMAMBA_NVCC names the real nvcc, ANYMAMBA_ARCH the architectures (89, or 86,120).
"""

import os
import subprocess
import sys


def narrowed(words: list, architectures: str) -> list:
    options, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in ("-gencode", "--generate-code", "-arch", "--gpu-architecture", "-code", "--gpu-code"):
            skip = True
        elif not word.startswith(
            ("-gencode=", "--generate-code=", "-arch=", "--gpu-architecture=", "-code=", "--gpu-code=")
        ):
            options.append(word)
    for architecture in architectures.split(","):
        options += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
    return options


if __name__ == "__main__":
    sys.exit(subprocess.call([os.environ["ANYMAMBA_NVCC"]] + narrowed(sys.argv[1:], os.environ["ANYMAMBA_ARCH"])))
END_OF_FILE

# compile causal-conv1d 1.6.1: 4 source files
CUDA_HOME="${CUDA_HOME:-/usr/local/cuda-12.8}"
"$CUDA_HOME/bin/nvcc" --version
(
  env CAUSAL_CONV1D_FORCE_BUILD="TRUE" \
    MAX_JOBS="${MAX_JOBS:-5}" \
    PYTHONPATH="$WORK/tools" \
    CUDA_HOME="$CUDA_HOME" \
    PYTORCH_NVCC="\"$PYTHON\" \"$WORK/nvcc_one_architecture.py\"" \
    ANYMAMBA_NVCC="$CUDA_HOME/bin/nvcc" \
    ANYMAMBA_ARCH="120" \
    PATH="$CUDA_HOME/bin:$WORK/tools/bin:$PATH" \
    "$PYTHON" -m pip wheel -v --no-build-isolation --no-deps --no-cache-dir -w "$WORK/wheels" 'causal-conv1d==1.6.1' 2>&1 | tee -a "$LOG"
) &
builds="${builds:-} $!"

# compile mamba-ssm 2.3.1: 10 source files
CUDA_HOME="${CUDA_HOME:-/usr/local/cuda-12.8}"
"$CUDA_HOME/bin/nvcc" --version
(
  env MAMBA_FORCE_BUILD="TRUE" \
    MAX_JOBS="${MAX_JOBS:-5}" \
    PYTHONPATH="$WORK/tools" \
    CUDA_HOME="$CUDA_HOME" \
    PYTORCH_NVCC="\"$PYTHON\" \"$WORK/nvcc_one_architecture.py\"" \
    ANYMAMBA_NVCC="$CUDA_HOME/bin/nvcc" \
    ANYMAMBA_ARCH="120" \
    PATH="$CUDA_HOME/bin:$WORK/tools/bin:$PATH" \
    "$PYTHON" -m pip wheel -v --no-build-isolation --no-deps --no-cache-dir -w "$WORK/wheels" 'mamba-ssm==2.3.1' 2>&1 | tee -a "$LOG"
) &
builds="${builds:-} $!"
for build in $builds; do
  wait "$build"
done

# install what is missing of: einops, ninja, packaging, setuptools>=61.0.0, transformers
"$PYTHON" -m pip install -c "$WORK/constraints.txt" 'einops' 'ninja' 'packaging' 'setuptools>=61.0.0' 'transformers'

# install the collected wheels
"$PYTHON" -m pip install --force-reinstall --no-deps --no-index "$WORK"/wheels/*.whl

# import in a fresh process; on a GPU, forward and backward against the reference
if ! "$PYTHON" -c 'import torch, causal_conv1d_cuda, causal_conv1d, selective_scan_cuda, mamba_ssm'; then
  "$PYTHON" -m pip uninstall -y causal-conv1d mamba-ssm
  echo 'the packages do not import; they were removed again' >&2
  exit 1
fi
if "$PYTHON" -c "import anymamba" 2>/dev/null; then
  "$PYTHON" -m anymamba.installer.verify causal-conv1d mamba-ssm || { "$PYTHON" -m pip uninstall -y causal-conv1d mamba-ssm; exit 1; }
fi
