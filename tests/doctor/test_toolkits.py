"""Where the CUDA toolkit of an nvcc lies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from anymamba.doctor.machine import toolkits

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
    assert toolkits._toolkit(script) == toolkits._toolkit(real) == expected


def test_headers_of_a_toolkit_for_several_targets(tmp_path: Path) -> None:
    real = toolkit(tmp_path, "targets/x86_64-linux/include")
    assert toolkits._toolkit(real)["headers"] == str(tmp_path / "targets" / "x86_64-linux" / "include")


def test_a_toolkit_without_headers(tmp_path: Path) -> None:
    real = toolkit(tmp_path / "cuda", None)
    assert toolkits._toolkit(real) == {"root": str(tmp_path / "cuda"), "headers": None}


def test_a_link_is_kept_as_it_is_named(tmp_path: Path) -> None:
    toolkit(tmp_path / "cuda-13.0", "include")
    (tmp_path / "cuda").symlink_to("cuda-13.0")
    assert toolkits._toolkit(str(tmp_path / "cuda" / "bin" / "nvcc"))["root"] == str(tmp_path / "cuda")
