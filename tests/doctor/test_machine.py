"""The machine check: quick, never felled by what it looks at, and right about broken packages."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from anymamba.doctor import machine, rules
from anymamba.doctor.machine import command, compiler, transformers, wheel
from anymamba.doctor.machine.sections import sections

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return machine.gather(imports=False)


def found(facts: dict[str, Any]) -> set[str]:
    return {rule.cause for rule in rules.all_rules() if rule.machine is not None and rule.machine(facts)}


def with_gpu(facts: dict[str, Any], **torch: Any) -> dict[str, Any]:
    """These facts on a machine with an RTX 5090, torch 2.8 for CUDA 12.8 and nvcc 12.8."""
    made = copy.deepcopy(facts)
    made["system"]["kind"] = "linux"
    made["python"]["minor"] = 12
    card = {"name": "RTX 5090", "capability": "12.0", "memory": "32607 MiB"}
    made["gpu"] = {"nvidia": [card], "amd": [], "driver": "580.1", "cuda": "13.0", "driver_error": None}
    made["torch"] = {"installed": True, "version": "2.8.0+cu128", "cuda": "12.8", "hip": None, "kind": "cuda", **torch}
    nvcc = {"path": "/usr/local/cuda/bin/nvcc", "version": "12.8"}
    made["cuda"] = {"nvccs": [], "used": nvcc, "home": None, "home_without_nvcc": False, "hipcc": None, "rocm": None}
    made["compiler"] = {"limit": 15, "gcc": {"path": "/usr/bin/g++", "version": "13.2.0", "major": 13}, "msvc": None}
    return made


def test_without_imports_it_is_quick() -> None:
    start = time.perf_counter()
    machine.gather(imports=False)
    assert time.perf_counter() - start < 5


def test_facts_are_json_and_have_a_line_each(facts: dict[str, Any]) -> None:
    json.dumps(facts)
    lines = sections(facts, [])
    assert len(lines) == 12
    assert all(line.summary for line in lines)


def test_a_machine_that_can_build_has_no_finding(facts: dict[str, Any]) -> None:
    assert found(with_gpu(facts)) == set()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"torch": {"kind": "cpu", "cuda": None, "version": "2.8.0+cpu"}}, "cpu-torch-in-env"),
        ({"cuda": {"used": None}}, "nvcc-missing"),
        ({"cuda": {"used": {"path": "nvcc", "version": "13.0"}}}, "cuda-major-mismatch"),
        ({"compiler": {"gcc": {"path": "g++", "version": "15.1.0", "major": 15}}}, "gcc-too-new-for-cuda"),
        ({"torch": {"archs": ["sm_80", "sm_90"]}}, "gpu-arch-not-compiled"),
        ({"python": {"minor": 14}}, "python-too-new-or-old"),
        ({"gpu": {"cuda": "11.4"}}, "cuda-driver-too-old"),
        (
            {"packages": {"errors": {"selective_scan_cuda": "ImportError: x.so: undefined symbol: _ZN3c10"}}},
            "abi-undefined-symbol",
        ),
        (
            {"packages": {"errors": {"selective_scan_cuda": "ImportError: libcudart.so.12: cannot open"}}},
            "libcudart-not-found",
        ),
        (
            {
                "packages": {
                    "mamba_ssm": {"installed": True, "version": "2.2.5"},
                    "causal_conv1d": {"installed": True, "version": "1.4.0"},
                }
            },
            "causal-conv1d-version-skew",
        ),  # fmt: skip
        (
            {"packages": {"mamba_ssm": {"installed": True, "version": "2.2.5"}, "causal_conv1d": {"installed": False}}},
            "causal-conv1d-missing",
        ),
    ],
)
def test_one_thing_wrong(facts: dict[str, Any], change: dict[str, Any], cause: str) -> None:
    made = with_gpu(facts)
    for area, values in change.items():
        made[area].update(values)
    assert cause in found(made)


def test_architectures_within_a_generation_are_fine(facts: dict[str, Any]) -> None:
    made = with_gpu(facts, archs=["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"])
    assert "gpu-arch-not-compiled" not in found(made)
    made["gpu"]["nvidia"][0]["capability"] = "8.9"
    assert "gpu-arch-not-compiled" not in found(made)


def doctor(path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The command in a process whose first import folder is path."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(path), str(SOURCE)]), ANYMAMBA_LANG="en")
    done = subprocess.run(
        [sys.executable, "-m", "anymamba", "doctor", "--json", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        check=False,
        timeout=120,
    )
    return done.returncode, json.loads(done.stdout)


def package(folder: Path, name: str, code: str, version: str | None = None) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code, "utf-8")
    if version:
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n", "utf-8"
        )


TORCH = """
__version__ = "2.8.0"
class version:
    cuda = hip = None
class _C:
    pass
class cuda:
    is_available = staticmethod(lambda: False)
"""


def test_a_torch_that_crashes_harms_nobody(tmp_path: Path) -> None:
    package(tmp_path, "torch", "import os\nos.abort()\n", "2.99.0")
    code, report = doctor(tmp_path)
    assert code == 1
    assert report["findings"][0]["cause"] == "torch-import-broken"
    assert "crashed" in report["facts"]["torch"]["error"]
    line = next(section for section in report["sections"] if section["area"] == "torch")
    assert line["state"] == "bad"


def test_a_broken_package_is_found_and_quoted(tmp_path: Path) -> None:
    package(tmp_path, "torch", TORCH, "2.8.0")
    package(tmp_path, "mamba_ssm", "import selective_scan_cuda\n", "2.3.1")
    (tmp_path / "selective_scan_cuda.py").write_text(
        "raise ImportError('selective_scan_cuda.so: undefined symbol: _ZN3c10')\n"
    )
    code, report = doctor(tmp_path)
    assert code == 1
    first = report["findings"][0]
    assert first["cause"] == "abi-undefined-symbol"
    assert "_ZN3c10" in first["evidence"][0]["text"]


def test_no_import_leaves_torch_alone(tmp_path: Path) -> None:
    package(tmp_path, "torch", "import time\ntime.sleep(60)\n", "2.99.0")
    start = time.perf_counter()
    doctor(tmp_path, "--no-import")
    assert time.perf_counter() - start < 10


def test_commands_have_a_time_limit() -> None:
    start = time.perf_counter()
    answer = command.ask([sys.executable, "-c", "import time; time.sleep(30)"], seconds=0.5)
    assert answer.error and "within" in answer.error
    assert time.perf_counter() - start < 5
    assert "not found" in (command.ask(["no-such-program-anywhere"]).error or "")


def test_compiler_limits() -> None:
    assert [compiler.limit(version) for version in ("11.8", "12.0", "12.4", "12.8", "13.0", None)] == [
        12,
        13,
        14,
        15,
        16,
        None,
    ]


def test_wheel_names(facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    torch = {"installed": True, "version": "2.8.0+cu128", "cuda": "12.8", "kind": "cuda", "abi": True}
    if 10 <= sys.version_info[1] <= 13 and facts["system"]["machine"] == "x86_64":
        tag = f"cp3{sys.version_info[1]}"
        urls = wheel.gather(torch, online=False)["urls"]
        assert urls[0].endswith(f"/v2.3.1/mamba_ssm-2.3.1+cu12torch2.8cxx11abiTRUE-{tag}-{tag}-linux_x86_64.whl")
    assert "reason" in wheel.gather(dict(torch, version="2.13.0+cu130", cuda="13.0"), online=False)
    assert "reason" in wheel.gather(dict(torch, kind="cpu", cuda=None), online=False)


@pytest.mark.parametrize(
    ("version", "era", "word"),
    [("4.57.6", "4", "only with a CUDA GPU"), ("5.9.0", "5.0", "only with a CUDA GPU"), ("5.23.0", "5.15", "drop-in")],
)
def test_transformers_eras(
    facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, version: str, era: str, word: str
) -> None:
    monkeypatch.setattr(transformers.distributions, "version", lambda name: version if name == "transformers" else None)
    gathered = transformers.gather()
    assert gathered["era"] == era
    here = copy.deepcopy(facts)
    here["transformers"], here["torch"]["gpu"] = gathered, False
    here["packages"].update(errors={}, mamba_ssm={"installed": False}, causal_conv1d={"installed": False})
    assert word in transformers.verdict(here)
