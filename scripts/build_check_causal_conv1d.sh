#!/usr/bin/env bash
# Builds causal-conv1d from its PyPI source against a CUDA torch for one architecture, verifies it, and removes it again.
# Needs nvcc 12.x, g++, about 10 GB of disk and the network; no GPU. Takes minutes, so it stands beside the test suite.
#   scripts/build_check_causal_conv1d.sh [FOLDER]     log: FOLDER/build_check.log
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
FOLDER="${1:-$(mktemp -d)}"
TORCH="${TORCH:-torch==2.8.0}"
INDEX="${INDEX:-https://download.pytorch.org/whl/cu128}"
ARCH="${ARCH:-8.0}"
mkdir -p "$FOLDER"
exec > >(tee "$FOLDER/build_check.log") 2>&1

check() {
  if ! "${@:2}"; then
    echo "FAILED: $1"
    exit 1
  fi
  echo "ok: $1"
}

python3 -m venv "$FOLDER/cuda"
PYTHON="$FOLDER/cuda/bin/python"
"$PYTHON" -m pip install -q "$TORCH" --index-url "$INDEX"
"$PYTHON" -m pip install -q "$ROOT"
"$PYTHON" -m pip list --format=freeze > "$FOLDER/before.txt"

# a CUDA torch: built, verified as far as without a GPU, recorded
check "builds and verifies" "$PYTHON" -m anymamba --lang en install causal-conv1d --from-source --arch "$ARCH" --yes
check "imports" "$PYTHON" -c 'import torch, causal_conv1d_cuda, causal_conv1d'
if command -v cuobjdump > /dev/null; then
  cuobjdump --list-elf "$FOLDER"/cuda/lib/python3*/site-packages/causal_conv1d_cuda*.so
fi

# removed again: the environment is as before
check "removes" "$PYTHON" -m anymamba --lang en uninstall causal-conv1d --yes
"$PYTHON" -m pip list --format=freeze > "$FOLDER/after.txt"
check "pip freeze is as before" diff "$FOLDER/before.txt" "$FOLDER/after.txt"

# the same command against a CPU torch stops before building anything
python3 -m venv "$FOLDER/cpu"
"$FOLDER/cpu/bin/python" -m pip install -q "$TORCH" --index-url https://download.pytorch.org/whl/cpu
"$FOLDER/cpu/bin/python" -m pip install -q "$ROOT"
"$FOLDER/cpu/bin/python" -m pip list --format=freeze > "$FOLDER/cpu_before.txt"
STOPPED=0
"$FOLDER/cpu/bin/python" -m anymamba --lang en install causal-conv1d --from-source --arch "$ARCH" --yes || STOPPED=$?
check "a CPU torch stops it" test "$STOPPED" -eq 1
"$FOLDER/cpu/bin/python" -m pip list --format=freeze > "$FOLDER/cpu_after.txt"
check "nothing was changed" diff "$FOLDER/cpu_before.txt" "$FOLDER/cpu_after.txt"
echo "all checks passed; log: $FOLDER/build_check.log"
