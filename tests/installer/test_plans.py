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
from anymamba.installer.plan import make_plan
from anymamba.installer.releases import RELEASES
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
    for cores, memory, jobs in ((16, 31.2, "10"), (4, 64.0, "4"), (16, 2.0, "1"), (2, None, "1")):
        facts["system"].update(cores=cores, memory_gb=memory)
        plan = make_plan(facts, dict(BOTH), without_wheels=frozenset(BOTH))
        assert {step.environment["MAX_JOBS"] for step in plan.steps if step.kind == "build"} == {jobs}


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
