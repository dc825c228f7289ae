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

from anymamba.cli import main
from anymamba.doctor import diagnose_machine, machine, rules
from anymamba.doctor.machine import command, compiler, transformers, wheel
from anymamba.doctor.machine.sections import sections
from anymamba.doctor.report import text

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
    answer = command.Budget(0.5).ask([sys.executable, "-c", "print('a word', flush=True); import time; time.sleep(30)"])
    assert answer.late and answer.error and "within 0.5 s" in answer.error and answer.output.strip() == "a word"
    assert time.perf_counter() - start < 5
    assert "not found" in (command.Budget(5).ask(["no-such-program-anywhere"]).error or "")


@pytest.mark.skipif(sys.platform == "win32", reason="sh")
def test_what_a_command_has_started_ends_with_it() -> None:
    start = time.perf_counter()
    answer = command.Budget(0.5).ask(["sh", "-c", "sleep 31 & echo $!; sleep 30"])
    assert answer.late and time.perf_counter() - start < 5
    child = int(answer.output)
    for _ in range(100):  # the init process may take a moment to collect it
        status = Path(f"/proc/{child}/stat")
        if not status.exists() or status.read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"process {child} is still there")


SLOW = "import time\ntime.sleep(60)\n"


def test_a_slow_torch_is_not_looked_at_and_no_finding(tmp_path: Path) -> None:
    package(tmp_path, "torch", SLOW, "2.99.0")
    start = time.perf_counter()
    code, report = doctor(tmp_path)
    assert time.perf_counter() - start < 8  # 2.7 s on a quiet machine
    assert "torch" not in {finding["cause"].split("-")[0] for finding in report["findings"]}
    assert {"torch", "backends"} <= set(report["facts"]["late"]) and "error" not in report["facts"]["torch"]
    line = next(section for section in report["sections"] if section["area"] == "torch")
    assert line["state"] == "info" and "not looked at: took longer than" in line["summary"]


def test_slow_packages_are_not_looked_at_and_no_finding(tmp_path: Path) -> None:
    """What was told before the time was over stays."""
    package(tmp_path, "torch", TORCH, "2.8.0")
    package(tmp_path, "mamba_ssm", SLOW, "2.3.1")
    package(tmp_path, "causal_conv1d", "", "1.6.1")
    for extension in ("selective_scan_cuda", "causal_conv1d_cuda"):
        (tmp_path / f"{extension}.py").touch()
    code, report = doctor(tmp_path, "--wait", "1")
    assert report["facts"]["torch"]["import_seconds"] >= 0 and report["facts"]["packages"]["errors"] == {}
    assert {"packages", "backends"} <= set(report["facts"]["late"]) and "torch" not in report["facts"]["late"]
    line = next(section for section in report["sections"] if section["area"] == "packages")
    assert line["state"] == "info" and "took longer than 1 s" in line["summary"]


@pytest.mark.skipif(sys.platform == "win32", reason="the programs here are shell scripts")
@pytest.mark.parametrize("name", ["nvidia-smi", "nvcc", "g++"])
def test_a_slow_program_is_not_looked_at_and_no_finding(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has a GPU and torch for CUDA: there a missing nvcc is a finding, and a slow one is none."""
    smi = 'case "$1" in --query*) echo "RTX 4090, 8.9, 24564 MiB, 580.1";; *) echo "CUDA Version: 13.0";; esac\n'
    programs = {"nvidia-smi": smi, "nvcc": "echo release 12.8, V12.8\n", "g++": "echo 13.2.0\n"}
    for program, lines in dict(programs, **{name: "sleep 60\n"}).items():
        (tmp_path / program).write_text("#!/bin/sh\n" + lines)
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for variable in ("CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    cuda = {"installed": True, "version": "2.8.0+cu128", "cuda": "12.8", "hip": None, "kind": "cuda"}
    monkeypatch.setattr(machine.installed_torch, "gather", lambda: dict(cuda))
    monkeypatch.setattr(machine, "_probe", lambda budget, torch, packages: {"late": []})
    report = diagnose_machine(seconds=0.6)
    area = {"nvidia-smi": "gpu", "nvcc": "cuda", "g++": "compiler"}[name]
    assert area in report.facts["late"]
    assert report.findings == []
    assert "not looked at" in next(line.summary for line in report.sections if line.area == area)
    assert "not looked at" in text.render(report) and "No issues" not in text.render(report)


def test_on_a_busy_machine_less_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of the program counts, so that the whole of it takes the three seconds that it may."""
    assert command.age() >= 0
    for age, seconds in ((0.3, 2.0), (0.9, 1.5), (9.0, 1.0)):
        monkeypatch.setattr(machine, "age", lambda age=age: age)
        assert machine.gather(imports=False)["seconds"] == pytest.approx(seconds)
    assert machine.gather(imports=False, seconds=7)["seconds"] == 7


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_wait_must_be_a_time(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"--wait={value}"]) == 2
    assert value in capsys.readouterr().err


def test_compiler_limits() -> None:
    assert [compiler.limit(version) for version in ("11.8", "12.0", "12.4", "12.8", "13.0", None)] == [
        12,
        13,
        14,
        15,
        16,
        None,
    ]


def test_wheel_names(facts: dict[str, Any]) -> None:
    here = with_gpu(facts, abi=True)
    here["system"]["machine"], here["libraries"]["glibc"] = "x86_64", "2.39"
    urls = wheel.gather(here, online=False)["urls"]
    assert urls[0].endswith("/v2.3.1/mamba_ssm-2.3.1%2Bcu12torch2.8cxx11abiTRUE-cp312-cp312-linux_x86_64.whl")
    assert "/v1.6.1.post4/causal_conv1d-1.6.1%2Bcu12torch2.8" in urls[1]
    for change in ({"version": "2.13.0+cu130", "cuda": "13.0"}, {"kind": "cpu", "cuda": None}, {"installed": False}):
        here["torch"] = {**with_gpu(facts, abi=True)["torch"], **change}
        assert wheel.gather(here, online=False)["reason"]


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
