"""mamba_ssm.distributed over two processes: tests.dropin.two_processes compares a shared Mamba2 with a whole one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(sys.platform == "win32", reason="gloo meets over a file here")
def test_a_mixer_shared_out_over_two_processes_equals_the_whole_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.dropin.two_processes"]
    root = Path(__file__).resolve().parents[2]
    both = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and out.strip() == "equal", err[-3000:]
