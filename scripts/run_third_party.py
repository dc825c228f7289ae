"""Runs programs of other people's packages, unchanged, against the drop-in, on the CPU.

    python scripts/run_third_party.py FOLDER [NAME ...] [--no-install]

The packages of PROGRAMS are installed from PyPI into FOLDER without their dependencies (their pins exclude each other, and they ask for
mamba-ssm); what they need besides torch, transformers and triton follows. Each program of tests/dropin/third_party then runs three
times: through `anymamba run`, through `anymamba.dropin()` in code, and with every op computed by the exact reference; the three
must print the same numbers. Standard output is one JSON line a program.

torchvision must belong to the torch of this interpreter; where it does not import, the programs that need it are reported as skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "dropin" / "third_party"

VISION = ("timm==1.0.15", "Pillow", "PyYAML")
PROGRAMS: dict[str, tuple[str, ...]] = {
    "mambavision": ("mambavision==1.2.0", "einops", *VISION),
    "opensr_mamba": ("opensr-mamba==0.0.1", "einops", *VISION),
    "flash_linear_attention": ("flash-linear-attention==0.6.0", "fla-core==0.6.0", "einops"),
    "bidirectional_mamba": ("bidirectional-mamba==0.2.0", "einops"),
    "initium": ("initium-deeplearning==0.4.0", "einops"),
    "sma_attention": ("sma-attention==0.1.1", "einops"),
    "fastrho": ("fastrho==0.1.1",),
}
"""Program -> what pip installs for it."""
NEED_TORCHVISION = {"mambavision", "opensr_mamba"}
IN_CODE = "import anymamba, runpy, sys; anymamba.dropin(); runpy.run_path(sys.argv[1], run_name='__main__')"


def install(folder: Path, names: list[str]) -> None:
    wanted = sorted({package for name in names for package in PROGRAMS[name]})
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    subprocess.run([*pip, *wanted], check=True, stdout=sys.stderr)


def run(folder: Path, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    merged = {**os.environ, "PYTHONPATH": str(folder), **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=folder, env=merged)


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    """The program's last line of output, as JSON. Raises RuntimeError with its errors if it failed."""
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def near(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) if isinstance(one, float) else one == other


def of_program(folder: Path, name: str) -> dict[str, Any]:
    """state: "ran", "skipped" or "failed"; numbers: what it printed; served: op -> backend -> count; versions of its packages."""
    if name in NEED_TORCHVISION:
        found = run(folder, ["-c", "import torchvision"])
        if found.returncode != 0:
            return {"state": "skipped", "reason": "torchvision does not import: " + found.stderr.strip().splitlines()[-1]}
    program = str(FOLDER / f"run_{name}.py")
    with tempfile.TemporaryDirectory() as scratch:
        report = os.path.join(scratch, "report.json")
        try:
            numbers = printed(run(folder, ["-m", "anymamba", "run", "--report", report, program]))
            in_code = printed(run(folder, ["-c", IN_CODE, program]))
            exact = printed(run(folder, ["-m", "anymamba", "run", program], ANYMAMBA_BACKEND="reference"))
        except RuntimeError as error:
            return {"state": "failed", "reason": str(error)}
        served = json.loads(Path(report).read_text("utf-8"))
    same = near(numbers, exact) and near(in_code, exact)
    found_row = {"state": "ran" if same else "failed", "packages": PROGRAMS[name][0], "numbers": numbers, "served": served["served"]}
    return found_row if same else {**found_row, "in code": in_code, "reference": exact}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *PROGRAMS], metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--no-install", action="store_true", help="the folder has the packages already")
    arguments = parser.parse_args()
    names = arguments.names or list(PROGRAMS)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.no_install:
        install(folder, names)
    failed = False
    for name in names:
        row = of_program(folder, name)
        failed |= row["state"] == "failed"
        print(json.dumps({"program": name, **row}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
