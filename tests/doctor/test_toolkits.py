"""Where the CUDA toolkit of an nvcc lies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from anymamba.doctor.machine import toolkits
from anymamba.doctor.machine.command import Budget


def found(path: str) -> dict[str, Any]:
    return toolkits._toolkit(path, Budget(10))


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the nvcc here is a shell script")


def nvcc(path: Path, lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + lines, "utf-8")
    path.chmod(0o755)
    return str(path)


def toolkit(root: Path, headers: str | None) -> str:
    """A toolkit whose nvcc says where it lies, as the real one does; headers: the folder of cuda_runtime.h in it."""
    if headers:
        (root / headers).mkdir(parents=True)
        (root / headers / "cuda_runtime.h").touch()
    return nvcc(root / "bin" / "nvcc", f"echo '#$ TOP={root}/bin/..' >&2\necho release 13.0\n")


def test_a_script_on_path_leads_to_the_toolkit_that_it_calls(tmp_path: Path) -> None:
    real = toolkit(tmp_path / "cuda", "include")
    script = nvcc(tmp_path / "local" / "bin" / "nvcc", f'exec {real} "$@"\n')
    expected = {"root": str(tmp_path / "cuda"), "headers": str(tmp_path / "cuda" / "include")}
    assert found(script) == found(real) == expected


def test_headers_of_a_toolkit_for_several_targets(tmp_path: Path) -> None:
    real = toolkit(tmp_path, "targets/x86_64-linux/include")
    assert found(real)["headers"] == str(tmp_path / "targets" / "x86_64-linux" / "include")


def test_a_toolkit_without_headers(tmp_path: Path) -> None:
    real = toolkit(tmp_path / "cuda", None)
    assert found(real) == {"root": str(tmp_path / "cuda"), "headers": None}


def test_a_link_is_kept_as_it_is_named(tmp_path: Path) -> None:
    toolkit(tmp_path / "cuda-13.0", "include")
    (tmp_path / "cuda").symlink_to("cuda-13.0")
    assert found(str(tmp_path / "cuda" / "bin" / "nvcc"))["root"] == str(tmp_path / "cuda")


def test_an_nvcc_that_does_not_answer_in_time_is_known_by_its_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc(tmp_path / "cuda" / "bin" / "nvcc", "sleep 60\n")
    (tmp_path / "cuda" / "include").mkdir()
    (tmp_path / "cuda" / "include" / "cuda_runtime.h").touch()
    (tmp_path / "cuda" / "include" / "cuda_runtime_api.h").write_text("#define CUDART_VERSION  12080\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    facts = toolkits.gather(Budget(0.3))
    assert facts["used"]["version"] == "12.8"
    (tmp_path / "cuda" / "include" / "cuda_runtime_api.h").unlink()
    facts = toolkits.gather(Budget(0.3))
    assert facts["used"] is None and facts["late"]
