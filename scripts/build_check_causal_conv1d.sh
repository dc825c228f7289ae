#!/usr/bin/env bash
# Really builds an official package from its PyPI source against a CUDA build of torch, for one architecture: through
# `anymamba install`, verified, removed again, environment compared; then the same command against a CPU build of torch, which must
# stop before anything is built. Needs nvcc of torch's CUDA major version, g++, about 10 GB of disk and the network; no GPU.
# Takes many minutes, so it stands beside the test suite. The last run is recorded in build_check_<package>.log beside this script.
#   scripts/build_check_causal_conv1d.sh [FOLDER]        keeps FOLDER, for instance to use its torch again
# PACKAGE (causal-conv1d), ARCH (8.0), PYTHON (python3), TORCH and CPU_TORCH (pip requirements), INDEX and CPU_INDEX (package indexes
# to take them from instead of pip's usual one), LOG (where the cleaned log goes).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PACKAGE="${PACKAGE:-causal-conv1d}"
ARCH="${ARCH:-8.0}"
PYTHON="${PYTHON:-python3}"
TORCH="${TORCH:-torch}"
CPU_TORCH="${CPU_TORCH:-torch}"
FOLDER="${1:-}"
if [ -z "$FOLDER" ]; then
  FOLDER="$(mktemp -d)"
  trap 'rm -rf "$FOLDER"' EXIT
fi
mkdir -p "$FOLDER"
FOLDER="$(cd "$FOLDER" && pwd)"
LOG="${LOG:-$FOLDER/build_check.log}"
export ANYMAMBA_CACHE_DIR="$FOLDER/cache"
MODULE="${PACKAGE//-/_}"

# machine paths and the names of package indexes do not belong into a log that is kept
clean() {
  sed -u -E -e "s#$FOLDER#FOLDER#g" -e "s#$ROOT#REPOSITORY#g" -e "s#$HOME#HOME#g" -e 's#https?://[^ ]*#ADDRESS#g' \
    -e 's#/tmp/anymamba-install-[A-Za-z0-9_]+#WORK#g'
}
exec > >(clean | tee "$LOG") 2>&1

check() {
  if ! "${@:2}"; then
    echo "FAILED: $1"
    exit 1
  fi
  echo "ok: $1"
}

# environment NAME REQUIREMENT [INDEX]: a virtual environment with that torch and this anymamba; one that is there is used again
environment() {
  if [ ! -x "$FOLDER/$1/bin/python" ]; then
    "$PYTHON" -m venv "$FOLDER/$1"
    "$FOLDER/$1/bin/python" -m pip install -q ${3:+--index-url "$3"} "$2" 2> /dev/null
  fi
  "$FOLDER/$1/bin/python" -m pip install -q --force-reinstall --no-deps "$ROOT" 2> /dev/null
  "$FOLDER/$1/bin/python" -m pip install -q "$ROOT" 2> /dev/null
}

frozen() {
  "$FOLDER/$1/bin/python" -m pip list --format=freeze 2> /dev/null
}

imports() {
  "$FOLDER/cuda/bin/python" -c 'import torch, numpy, triton; print("torch", torch.__version__, "imports")'
}

# every file of the environment but bytecode, with its content
fingerprint() {
  (cd "$FOLDER/$1" && find . -type f -not -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
}

echo "== machine"
date -u +%Y-%m-%d
uname -sm
grep -m1 PRETTY_NAME /etc/os-release || true
nproc | sed 's/$/ cores/'
grep -m1 'model name' /proc/cpuinfo || true
grep MemTotal /proc/meminfo
g++ --version | head -1
nvcc --version | tail -2 | head -1
"$PYTHON" --version
git -C "$ROOT" log -1 --format='anymamba at %h' 2> /dev/null || true

environment cuda "$TORCH" "${INDEX:-}"
frozen cuda > "$FOLDER/before.txt"
fingerprint cuda > "$FOLDER/files_before.txt"

echo
echo "== a CUDA build of torch: $PACKAGE is built, verified as far as without a GPU, and recorded"
STARTED="$SECONDS"
check "builds and verifies" "$FOLDER/cuda/bin/python" -m anymamba --lang en install "$PACKAGE" --from-source --arch "$ARCH" --yes
echo "$(((SECONDS - STARTED) / 60)) minutes $(((SECONDS - STARTED) % 60)) seconds"
check "imports in a process of its own" "$FOLDER/cuda/bin/python" -c "import torch, $MODULE; print($MODULE.__version__)"
frozen cuda | diff "$FOLDER/before.txt" - || true
echo "architectures in the assembler's report, and for how many kernels:"
grep -ho "for 'sm_[0-9a-z]*'" "$FOLDER"/cache/install-logs/*.log | sort | uniq -c
EXTENSION="$(find "$FOLDER"/cuda/lib/python3*/site-packages -maxdepth 1 -name '*_cuda*.so' -printf '%s %f\n')"
echo "extension, bytes: $EXTENSION"

echo
echo "== removed again"
check "removes" "$FOLDER/cuda/bin/python" -m anymamba --lang en uninstall "$PACKAGE" --yes
frozen cuda > "$FOLDER/after.txt"
fingerprint cuda > "$FOLDER/files_after.txt"
check "pip freeze is as before" diff "$FOLDER/before.txt" "$FOLDER/after.txt"
check "every file is as before" diff "$FOLDER/files_before.txt" "$FOLDER/files_after.txt"
check "torch imports as before" imports

echo
echo "== a CPU build of torch: the same command stops before anything is built"
environment cpu "$CPU_TORCH" "${CPU_INDEX:-}"
"$FOLDER/cpu/bin/python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
frozen cpu > "$FOLDER/cpu_before.txt"
STOPPED=0
"$FOLDER/cpu/bin/python" -m anymamba --lang en install "$PACKAGE" --from-source --arch "$ARCH" --yes || STOPPED=$?
check "it stops" test "$STOPPED" -eq 1
frozen cpu > "$FOLDER/cpu_after.txt"
check "nothing was changed" diff "$FOLDER/cpu_before.txt" "$FOLDER/cpu_after.txt"
echo "all checks passed"
