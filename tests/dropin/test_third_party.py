"""Programs of other people's packages run unchanged; scripts/run_third_party.py installs them from PyPI and runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_programs_that_import_mamba_ssm_run_unchanged(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "run_third_party.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        print(row["program"], row["state"], row.get("reason", ""))
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    ran = [row for row in rows if row["state"] == "ran"]
    assert len(ran) >= 5, "all but the two that need torchvision run anywhere"
    for row in ran:
        assert row["served"] and all(set(backends) == {"cpu"} for backends in row["served"].values())


def test_every_program_is_in_the_table_and_imports_nothing_of_ours() -> None:
    """So that "unchanged" is true of what the slow test runs."""
    from scripts.run_third_party import FOLDER, PROGRAMS

    assert {path.stem.removeprefix("run_") for path in FOLDER.glob("*.py")} == set(PROGRAMS)
    for path in FOLDER.glob("*.py"):
        assert "anymamba" not in path.read_text("utf-8")
