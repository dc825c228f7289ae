"""anymamba run and anymamba dropin, from the command line to the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anymamba.cli import main

PROGRAM = """
import sys
import torch
from mamba_ssm import Mamba
from causal_conv1d import causal_conv1d_fn

if __name__ == "__main__":
    print(Mamba(16)(torch.randn(1, 5, 16)).shape, sys.argv)
    sys.exit(int(sys.argv[1]))
"""


def anymamba(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "anymamba", *words], capture_output=True, text=True, cwd=cwd)


def test_an_unmodified_script_runs(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    done = anymamba("run", "--report", "report.json", "train.py", "3", "--lr", "1e-3", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.strip() == "torch.Size([1, 5, 16]) ['train.py', '3', '--lr', '1e-3']"
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["calls"] == {"mamba_ssm.ops.selective_scan_interface.mamba_inner_fn": 1}
    assert report["served"]["selective_scan_fn"] and report["packages"]["mamba_ssm"]["state"] == "anymamba"


def test_a_module_runs_and_its_error_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "research").mkdir()
    (tmp_path / "research" / "__main__.py").write_text("import mamba_ssm.ops\nraise RuntimeError('the user''s own')\n")
    done = anymamba("run", "-m", "research", cwd=tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: the users own" in done.stderr and "bug of anymamba" not in done.stderr
    assert "cli/run.py" not in done.stderr


def test_no_program_and_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert main(["run", "no/such/file.py"]) == 2
    assert "no/such/file.py" in capsys.readouterr().err


def test_enable_status_disable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--site-dir", str(tmp_path)]
    assert main(["dropin", "enable", *where]) == 0
    written = list(tmp_path.iterdir())
    assert len(written) == 1 and str(written[0]) in capsys.readouterr().out
    assert main(["dropin", "status", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["enabled"] == {"file": str(written[0]), "enabled": True}
    assert set(document["packages"]) == {"mamba_ssm", "causal_conv1d"} and document["transformers"]["how"]
    assert main(["dropin", "disable", *where]) == 0
    assert list(tmp_path.iterdir()) == []
    assert main(["dropin", "disable", *where]) == 0


def test_status_names_a_broken_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("raise ImportError('undefined symbol: _ZN2at4_ops')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from anymamba.dropin import finder

    try:
        assert main(["dropin", "status"]) == 1
    finally:
        finder.broken.clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
            del sys.modules[name]
    assert "undefined symbol: _ZN2at4_ops" in capsys.readouterr().out
