"""Runs the test files of mamba_ssm or causal_conv1d against the drop-in, on the CPU.

    python scripts/run_upstream_tests.py SOURCE_TREE [--cases N] [-k EXPRESSION]

The tree's tests are copied to a temporary folder; there "cuda" becomes "cpu", the largest shapes become smaller, and of each test
function N cases spread over all are run (all, unless said otherwise). The tree itself is not changed, and its package is not imported:
the drop-in is.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED = re.compile(r"test_mamba3_mimo\.py|benchmark_|test_determinism\.py|__pycache__")
"""test_mamba3_mimo.py calls parts of TileLang kernels; test_determinism.py and the benchmarks measure Triton kernels."""
LEFT_OUT = "not prune_mamba3"
"""Tests of how a Triton kernel is tuned."""

CHANGES = [
    (r"""(["'])cuda\1""", r"\1cpu\1"),
    (r"torch\.cuda\.(synchronize|empty_cache)\(\)", "None"),
    # shapes: what a GPU does in a second takes a CPU's reference minutes
    (r"""(parametrize\(["']dim["'], )\[2048, 2048 \+ 16, 4096\]""", r"\1[64, 64 + 16]"),
    (r"""(parametrize\(["']d["'], )\[2048, 4096\]""", r"\1[256, 512]"),
    (r"\b4096:4096 \+ dim", "128:128 + dim"),
    (r"4096 \+ (dim|d_model)", r"128 + \1"),
    (r"\[64, 4096 \+ 32\]", "[64, 128 + 32]"),
    (r"^(\s+)dim = 4096( \+ 32)?\b", r"\1dim = 512"),
    (r"^(\s+)dim = 768\b", r"\1dim = 96"),
    (r"^(\s+)batch = 300\b", r"\1batch = 20"),
    (r"\[128, 256, 512, 1024, 2048, 4096\]", "[128, 256, 512]"),
    (r"range\(10000\)", "range(20)"),
    (r"\bcg=True\b", "cg=False"),
    # Mamba-3
    (r"^(\s+)_require_cuda(_and_kernel_deps)?\(\)$", r"\1pass"),
    (r"^(\s+)batch = (128|16)$", r"\1batch = 2"),
    (r"^(\s+)seqlen = (2345|2048)$", r"\1seqlen = 65"),
    (r"^(\s+)nheads = 32$", r"\1nheads = 4"),
    (r"\[2345, 2346, 2347, 2348, 2349, 2350, 2351, 2352\]", "[45, 46, 47, 128, 64, 1, 2, 3]"),
    (r"^BATCH = 128$", "BATCH = 2"),
    (r"^NHEADS = 64$", "NHEADS = 4"),
    (r"^SEQLEN = 32$", "SEQLEN = 16"),
]

CONFTEST = """
import anymamba.dropin
anymamba.dropin()


def pytest_collection_modifyitems(config, items):
    limit, groups = {cases}, {{}}
    for item in items:
        groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = set()
    for group in groups.values():
        step = max(len(group) / limit, 1)
        # an odd step through the product of parameters, so that every value of each appears
        kept.update(id(group[int(i * step)]) for i in range(min(limit, len(group))))
    items[:] = [item for item in items if id(item) in kept]
"""


def changed(text: str) -> str:
    lines = []
    for line in text.splitlines(keepends=True):
        if not line.lstrip().startswith("#"):
            for pattern, replacement in CHANGES:
                line = re.sub(pattern, replacement, line)
        lines.append(line)
    return "".join(lines)


def copy_tests(tree: Path, target: Path) -> list[Path]:
    """The changed copies, in the tree's own order."""
    copies = []
    for path in sorted((tree / "tests").rglob("test_*.py")):
        if not SKIPPED.search(str(path.relative_to(tree))):
            copy = target / "_".join(path.relative_to(tree / "tests").parts)
            copy.write_text(changed(path.read_text("utf-8")), "utf-8")
            copies.append(copy)
    return copies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--cases", type=int, default=10**6, help="at most so many cases of each test function, spread over all")
    parser.add_argument("-k", default="", help="passed on to pytest")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="upstream_tests_"))
    try:
        copies = copy_tests(arguments.tree, folder)
        (folder / "conftest.py").write_text(CONFTEST.format(cases=arguments.cases), "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "--tb=line", "-p", "no:cacheprovider", f"--rootdir={folder}"]
        # a clone that lies in the current folder must not be imported instead
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        chosen = f"({arguments.k}) and {LEFT_OUT}" if arguments.k else LEFT_OUT
        return subprocess.run([*command, "-k", chosen, *map(str, copies)], cwd=folder, env=environment).returncode
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
