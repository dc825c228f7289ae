"""Emitted scripts are what a shell accepts, and scripts/wsl_build_mamba_ssm_sm120.sh is one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anymamba.installer import edit_for_msvc
from anymamba.installer.nvcc_one_architecture import narrowed
from anymamba.installer.plan import make_plan
from anymamba.installer.script import KINDS, emit
from anymamba.language import set_language

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BOTH: dict[str, str | None] = {"mamba-ssm": None, "causal-conv1d": None}


def plans() -> dict[str, Any]:
    found = {}
    for path in sorted((HERE / "machines").glob("*.json")):
        for source in (False, True):
            plan = make_plan(
                json.loads(path.read_text("utf-8")), dict(BOTH), without_wheels=frozenset(BOTH if source else ())
            )
            if plan.blocked is None:
                found[f"{path.stem}-{'source' if source else 'default'}"] = plan
    return found


PLANS = plans()


@pytest.fixture(autouse=True)
def english() -> Any:
    set_language("en")
    yield
    set_language(None)


@pytest.fixture(params=["en", "zh"])
def language(request: pytest.FixtureRequest, english: Any) -> str:
    set_language(request.param)
    return str(request.param)


def planned(name: str, source: bool) -> Any:
    facts = json.loads((HERE / "machines" / f"{name}.json").read_text("utf-8"))
    return make_plan(facts, dict(BOTH), without_wheels=frozenset(BOTH if source else ()))


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize("name", sorted(PLANS))
def test_bash_accepts_the_scripts(name: str, language: str, tmp_path: Path) -> None:
    machine, _, how = name.rpartition("-")
    path = tmp_path / "install.sh"
    path.write_text(emit(planned(machine, how == "source"), "bash"), "utf-8")
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SHELLCHECK = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say(language: str, tmp_path: Path) -> None:
    for name, plan in PLANS.items():
        (tmp_path / f"{name}.sh").write_text(emit(plan, "bash"), "utf-8")
    paths = [str(path) for path in sorted(tmp_path.glob("*.sh"))] + [
        str(path) for path in (ROOT / "scripts").glob("*.sh")
    ]
    done = subprocess.run(
        [str(SHELLCHECK), *paths], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    assert done.returncode == 0, done.stdout


def powershell_errors(text: str) -> list[str]:
    """What a PowerShell grammar does not understand."""
    tree_sitter, grammar = pytest.importorskip("tree_sitter"), pytest.importorskip("tree_sitter_powershell")
    root = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(text.encode("utf-8")).root_node
    found, open_nodes = [], [root]
    while open_nodes:
        node = open_nodes.pop()
        open_nodes += node.children
        if node.is_error or node.is_missing:
            found.append(f"line {node.start_point[0] + 1}: {node.text.decode('utf-8')[:80]!r}")
    return found


def test_the_parser_finds_faults() -> None:
    assert powershell_errors("if ($x) { 'a(' }") == []
    for broken in ("if ($x { 'a' }", "'open", '"a`"', "foo }", "f (1]", "$x = ", "@'\nopen"):
        assert powershell_errors(broken), broken


@pytest.mark.parametrize("name", sorted(PLANS))
def test_powershell_scripts_parse(name: str, language: str, tmp_path: Path) -> None:
    machine, _, how = name.rpartition("-")
    text = emit(planned(machine, how == "source"), "powershell")
    assert powershell_errors(text) == []
    if shutil.which("pwsh"):
        path = tmp_path / "install.ps1"
        path.write_text(text, "utf-8")
        parse = "$e=$null; [void][Management.Automation.Language.Parser]::ParseFile($args[0],[ref]$null,[ref]$e); $e; exit $e.Count"
        done = subprocess.run(
            ["pwsh", "-NoProfile", "-Command", f"& {{ {parse} }} {path}"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_dockerfile_carries_the_bash_script() -> None:
    plan = planned("linux_h100_cu130", False)
    text = emit(plan, "Dockerfile")
    assert "\nFROM " in text and "RUN bash /tmp/install.sh" in text
    inside = text.split("COPY <<'END_OF_SCRIPT' /tmp/install.sh\n")[1].split("\nEND_OF_SCRIPT")[0]
    assert inside + "\n" == emit(plan, "bash")


@pytest.mark.parametrize("kind", KINDS)
def test_no_script_holds_a_placeholder(kind: str) -> None:
    for name, plan in PLANS.items():
        assert not re.search(r"\{work\}|\{python\}", emit(plan, kind)), name


def test_the_script_for_wsl2_and_rtx_5090_is_the_emitted_one() -> None:
    path = ROOT / "scripts" / "wsl_build_mamba_ssm_sm120.sh"
    text = emit(planned("wsl2_rtx5090_cu128", True), "bash")
    if os.environ.get("ANYMAMBA_REWRITE_PLANS"):
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text
    assert 'ANYMAMBA_ARCH="120"' in text and "cuda-12.8" in text


def test_one_architecture_is_left() -> None:
    words = [
        "-c",
        "a.cu",
        "-gencode",
        "arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-O3",
        "-arch=sm_70",
    ]
    assert narrowed(words, "120") == ["-c", "a.cu", "-O3", "-gencode", "arch=compute_120,code=sm_120"]
    two = ["-gencode", "arch=compute_86,code=sm_86", "-gencode", "arch=compute_120,code=sm_120"]
    assert narrowed(words, "86,120")[3:] == two


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvcc is a shell script here")
def test_torch_builds_through_the_stand_in(tmp_path: Path) -> None:
    """What torch writes into its ninja file from PYTORCH_NVCC runs as a command; the exit code comes through."""
    nvcc = tmp_path / "nvcc with space"
    nvcc.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 3\n', "utf-8")
    nvcc.chmod(0o755)
    stand_in = ROOT / "src" / "anymamba" / "installer" / "nvcc_one_architecture.py"
    environment = dict(os.environ, ANYMAMBA_NVCC=str(nvcc), ANYMAMBA_ARCH="89")
    command = f'"{sys.executable}" "{stand_in}" -gencode arch=compute_80,code=sm_80 "-DNAME=a b" -c x.cu'
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["-DNAME=a b", "-c", "x.cu", "-gencode", "arch=compute_89,code=sm_89"]


def test_edits_for_msvc(tmp_path: Path) -> None:
    folder = tmp_path / "mamba_ssm-2.3.1" / "csrc" / "selective_scan"
    folder.mkdir(parents=True)
    file = folder / "selective_scan_fwd_kernel.cuh"
    before = "#pragma once\nconstexpr bool kIsComplex = T::c;\nstatic constexpr bool kB = true;\nx * M_LOG2E;\n"
    file.write_text(before, "utf-8")
    edit_for_msvc.main(tmp_path)
    after = file.read_text("utf-8")
    assert "static constexpr bool kIsComplex" in after and "static static" not in after
    assert after.index("#pragma once") < after.index("#ifndef M_LOG2E") < after.index("x * M_LOG2E")
    edit_for_msvc.main(tmp_path)
    assert file.read_text("utf-8") == after
