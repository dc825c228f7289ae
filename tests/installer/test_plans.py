"""Plans for a table of machines are golden files: machines/X.json in, plans/X.json out. ANYMAMBA_REWRITE_PLANS=1 writes them anew."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from anymamba.cli.install import describe
from anymamba.installer.machine import Machine
from anymamba.installer.plan import make_plan
from anymamba.installer.releases import RELEASES
from anymamba.installer.wheels import fits
from anymamba.language import set_language

HERE = Path(__file__).parent
MACHINES = sorted(path.stem for path in (HERE / "machines").glob("*.json"))
BOTH: dict[str, str | None] = {"mamba-ssm": None, "causal-conv1d": None}


@pytest.fixture(autouse=True)
def english() -> Any:
    set_language("en")
    yield
    set_language(None)


def machine(name: str) -> dict[str, Any]:
    return json.loads((HERE / "machines" / f"{name}.json").read_text("utf-8"))


def made(name: str, **options: Any) -> Any:
    return make_plan(machine(name), dict(options.pop("packages", BOTH)), **options)


@pytest.mark.parametrize("name", MACHINES)
def test_plan_is_the_golden_one(name: str) -> None:
    plan = json.loads(json.dumps(made(name).document()))
    path = HERE / "plans" / f"{name}.json"
    if os.environ.get("ANYMAMBA_REWRITE_PLANS"):
        path.write_text(json.dumps(plan, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert plan == json.loads(path.read_text("utf-8"))


def test_every_plan_has_a_machine() -> None:
    assert sorted(path.stem for path in (HERE / "plans").glob("*.json")) == MACHINES


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("source", [False, True])
def test_plans_are_in_both_languages(name: str, source: bool) -> None:
    without = frozenset(BOTH) if source else frozenset()
    english = describe(made(name, without_wheels=without))
    set_language("zh")
    chinese = describe(made(name, without_wheels=without))
    assert len(english) == len(chinese)
    commands = [line for line in english if line.lstrip().startswith("$ ")]
    assert commands == [line for line in chinese if line.lstrip().startswith("$ ")]
    assert not any(re.search("[\u4e00-\u9fff]", line) for line in english)
    long = [line for line in chinese if len(line) > 60 and "=" not in line and "$" not in line and "://" not in line]
    assert all(re.search("[\u4e00-\u9fff]", line) for line in long), long


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("version", [release.version for release in RELEASES if release.package == "mamba-ssm"])
def test_no_plan_touches_torch(name: str, version: str) -> None:
    for source in (frozenset(), frozenset(BOTH)):
        plan = made(name, packages={"mamba-ssm": version, "causal-conv1d": None}, without_wheels=source)
        for step in plan.steps:
            for command in step.commands:
                assert not any(re.match(r"torch\b", word) for word in command)
                if step.kind in ("build", "install"):
                    assert "--no-deps" in command
        assert "TORCH_CUDA_ARCH_LIST" not in {key for step in plan.steps for key in step.environment}


def test_cpu_torch_stops_before_anything() -> None:
    facts = machine("wsl2_rtx5090_cu128")
    facts["torch"] = {"installed": True, "version": "2.8.0+cpu", "cuda": None, "hip": None, "kind": "cpu"}
    plan = make_plan(facts, dict(BOTH))
    assert plan.blocked and plan.blocked.code == "cpu-torch" and plan.steps == ()
    assert "CPU build" in plan.blocked.reason and "--index-url" in plan.blocked.commands[0]


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("nvcc-missing", lambda facts: facts["cuda"].update(nvccs=[], used=None)),
        ("nvcc-missing", lambda facts: facts["cuda"]["nvccs"][0].update(version="13.0")),
        ("nvcc-gpu", lambda facts: facts["cuda"]["nvccs"][0].update(version="12.4")),
        ("gcc-missing", lambda facts: facts["compiler"].update(gcc=None)),
        ("gcc-too-new", lambda facts: facts["compiler"]["gcc"].update(version="15.1.0", major=15)),
        ("gcc-too-old", lambda facts: facts["compiler"]["gcc"].update(version="7.5.0", major=7)),
        ("disk", lambda facts: facts["system"].update(temporary_free_gb=0.5)),
        ("no-gpu", lambda facts: (facts["gpu"].update(nvidia=[]), facts["torch"].pop("capability"))),
        ("torch-missing", lambda facts: facts.update(torch={"installed": False})),
        ("cuda-headers-missing", lambda facts: facts["cuda"]["nvccs"][0].update(root="/opt/cuda", headers=None)),
        ("externally-managed", lambda facts: facts["python"].update(environment="system, externally managed")),
    ],
)
def test_what_stops_a_build(code: str, change: Any) -> None:
    facts = copy.deepcopy(machine("wsl2_rtx5090_cu128"))
    change(facts)
    plan = make_plan(facts, dict(BOTH), without_wheels=frozenset(BOTH))
    assert plan.blocked and plan.blocked.code == code, plan.blocked
    assert plan.blocked.reason and plan.blocked.fix and not plan.steps


def test_architecture_can_be_named_without_a_gpu() -> None:
    facts = machine("wsl2_rtx5090_cu128")
    facts["gpu"]["nvidia"] = []
    del facts["torch"]["capability"]
    plan = make_plan(facts, {"causal-conv1d": None}, without_wheels=frozenset(BOTH), architecture=86)
    build = next(step for step in plan.steps if step.kind == "build")
    assert build.environment["ANYMAMBA_ARCH"] == "86"
    assert "No GPU" in plan.first[0]


def test_triton_that_torch_pins_stops_the_newest_release() -> None:
    plan = made("wsl2_rtx5090_cu128", packages={"mamba-ssm": "2.3.2.post1"})
    assert plan.blocked and plan.blocked.code == "triton-pin" and "2.3.1" in plan.blocked.fix


def test_old_archives_without_sources_come_from_git() -> None:
    plan = made("wsl2_rtx5090_cu128", packages={"mamba-ssm": "2.2.4"})
    build = next(step for step in plan.steps if step.kind == "build")
    assert build.commands[0][-1] == "git+https://github.com/state-spaces/mamba@v2.2.4"


def test_main_keeps_its_cuda_build() -> None:
    plan = made("linux_h100_cu130", packages={"mamba-ssm": "main"})
    build = next(step for step in plan.steps if step.kind == "build")
    assert build.environment["MAMBA_KEEP_CUDA_BUILD"] == build.environment["MAMBA_FORCE_BUILD"] == "TRUE"


def test_jobs_follow_memory_and_cores() -> None:
    facts = machine("wsl2_rtx5090_cu128")
    for cores, memory, jobs, at_once in ((16, 31.2, "5", 1), (4, 64.0, "4", 1), (16, 2.0, "1", 0), (2, None, "1", 0), (16, 128.0, "16", 1)):
        facts["system"].update(cores=cores, memory_gb=memory)
        plan = make_plan(facts, dict(BOTH), without_wheels=frozenset(BOTH))
        assert {step.environment["MAX_JOBS"] for step in plan.steps if step.kind == "build"} == {jobs}
        assert sum(step.beside for step in plan.steps) == at_once


def test_an_old_glibc_has_no_wheel() -> None:
    facts = machine("wsl2_rtx5090_cu128")
    facts["libraries"]["glibc"] = "2.31"
    assert make_plan(facts, dict(BOTH)).route == "source"


def test_your_own_wheel_is_taken() -> None:
    plan = made(
        "wsl2_rtx5090_cu128",
        packages={"causal-conv1d": None},
        local={"causal-conv1d": "/tmp/causal_conv1d-1.6.1-x.whl"},
    )
    assert plan.route == "local" and not [step for step in plan.steps if step.kind in ("build", "download")]
    assert plan.packages[0].version == "1.6.1"


def build_of(facts: dict[str, Any]) -> dict[str, str]:
    plan = make_plan(facts, {"causal-conv1d": None}, without_wheels=frozenset(BOTH))
    return next(step for step in plan.steps if step.kind == "build").environment


def test_cuda_home_is_where_the_toolkit_really_lies() -> None:
    """An nvcc on PATH may be a script that calls the real one."""
    facts = machine("wsl2_rtx5090_cu128")
    root = "/opt/conda/pkgs/cuda"
    headers = root + "/targets/x86_64-linux/include"
    facts["cuda"]["nvccs"] = [
        {"path": "/usr/bin/nvcc", "version": "12.8", "error": "", "root": root, "headers": headers}
    ]
    environment = build_of(facts)
    assert environment["CUDA_HOME"] == root and environment["ANYMAMBA_NVCC"] == root + "/bin/nvcc"
    assert environment["CPATH"] == headers and environment["PATH"].startswith(root + "/bin:")


def test_another_compiler_of_this_machine_is_named_where_the_usual_one_is_too_new() -> None:
    facts = machine("wsl2_rtx5090_cu128")
    assert "CC" not in build_of(facts)
    facts["compiler"]["gcc"].update(version="15.1.0", major=15)
    others = [{"path": f"/usr/bin/g++-{major}", "version": f"{major}.1.0", "major": major} for major in (12, 13, 16)]
    facts["compiler"]["others"] = others
    environment = build_of(facts)
    assert (environment["CC"], environment["CXX"]) == ("/usr/bin/gcc-13", "/usr/bin/g++-13")
    assert environment["NVCC_CCBIN"] == "/usr/bin/g++-13"


def test_every_kind_of_gpu_is_compiled_for() -> None:
    facts = machine("wsl2_rtx5090_cu128")
    facts["gpu"]["nvidia"].append({"name": "NVIDIA GeForce RTX 3090", "capability": "8.6", "memory": "24576 MiB"})
    assert build_of(facts)["ANYMAMBA_ARCH"] == "86,120"


def test_what_is_not_needed_is_said_first() -> None:
    """Compositions and ops that the official package lacks do not count; one slow kernel does."""
    facts = machine("linux_h100_cu130")
    assert make_plan(facts, dict(BOTH)).first[0].startswith("You do not need this")
    assert "7 ops" in make_plan(facts, dict(BOTH)).first[0]
    facts["backends"]["ops"]["selective_scan_fn"] = {
        "triton": {"ok": False, "chosen": False},
        "torch": {"chosen": True},
    }
    assert make_plan(facts, dict(BOTH)).first == ()
    assert make_plan(facts, {"causal-conv1d": None}).first[0].startswith("You do not need this")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("mamba_ssm-2.3.1+cu12torch2.8cxx11abiTRUE-cp312-cp312-linux_x86_64.whl", None),
        ("mamba_ssm-2.3.1-cp312-cp312-linux_x86_64.whl", None),
        ("causal_conv1d-1.6.1+cu122torch2.8cxx11abiTRUE-cp312-cp312-manylinux_2_28_x86_64.whl", None),
        ("mamba_ssm-2.3.1+cu12torch2.7cxx11abiTRUE-cp312-cp312-linux_x86_64.whl", "torch 2.7"),
        ("mamba_ssm-2.3.1+cu13torch2.8cxx11abiTRUE-cp312-cp312-linux_x86_64.whl", "CUDA 13"),
        ("mamba_ssm-2.3.1+cu12torch2.8cxx11abiFALSE-cp312-cp312-linux_x86_64.whl", "ABI FALSE"),
        ("mamba_ssm-2.3.1+cu12torch2.8cxx11abiTRUE-cp311-cp311-linux_x86_64.whl", "Python cp311"),
        ("mamba_ssm-2.3.1+cu12torch2.8cxx11abiTRUE-cp312-cp312-linux_aarch64.whl", "linux_aarch64"),
        ("mamba_ssm-2.3.1-cp312-cp312-win_amd64.whl", "win_amd64"),
        ("torch-2.8.0-cp312-cp312-linux_x86_64.whl", "no wheel file"),
        ("mamba_ssm.whl", "no wheel file"),
    ],
)
def test_which_wheel_files_fit(file: str, reason: str | None) -> None:
    ok, why = fits(Machine(machine("wsl2_rtx5090_cu128")), file)
    assert ok is (reason is None)
    assert reason is None or reason in why


def offline(name: str = "linux_h100_cu130", **options: Any) -> Any:
    archives = {"mamba-ssm": "/files/mamba_ssm-2.3.2.post1.tar.gz", "causal-conv1d": "/files/causal_conv1d-1.7.0.tar.gz"}
    packages = {"mamba-ssm": "2.3.2.post1", "causal-conv1d": "1.7.0"}
    return made(name, **{"packages": packages, "archives": archives, "links": "/files", "offline": True, **options})


def test_without_a_network_everything_comes_from_the_folder() -> None:
    plan = offline()
    assert plan.blocked is None and {choice.route for choice in plan.packages} == {"source"}
    builds = [step for step in plan.steps if step.kind == "build"]
    assert [step.commands[0][-1] for step in builds] == ["/files/causal_conv1d-1.7.0.tar.gz", "/files/mamba_ssm-2.3.2.post1.tar.gz"]
    fetching = [command for step in plan.steps if step.kind in ("tools", "dependencies") for command in step.commands]
    assert len(fetching) == 3 and all("--no-index" in command and "/files" in command for command in fetching)
    assert not any("://" in word for step in plan.steps for command in step.commands for word in command)


def test_without_dependencies_none_is_looked_for() -> None:
    plan = offline(dependencies=False)
    assert "dependencies" not in {step.kind for step in plan.steps}
    assert any("--no-deps" in line for line in plan.changes)


def test_without_a_network_and_without_the_file_it_stops() -> None:
    plan = offline(archives={"causal-conv1d": "/files/causal_conv1d-1.7.0.tar.gz"})
    assert plan.blocked is not None and plan.blocked.code == "offline" and "mamba-ssm 2.3.2.post1" in plan.blocked.reason


def test_an_archive_is_built_though_a_wheel_is_published() -> None:
    plan = offline(offline=False, links=None)
    assert {choice.route for choice in plan.packages} == {"source"}


def test_builds_beside_each_other_are_counted_once() -> None:
    plan = offline()
    both = [step for step in plan.steps if step.kind == "build"]
    assert both[0].minutes == both[1].minutes and plan.minutes[1] < 5.0 + sum(step.minutes[1] for step in both)
