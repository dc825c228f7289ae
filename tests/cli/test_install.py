"""anymamba install and uninstall from the command line; nothing here installs anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from anymamba.cli import install, main
from anymamba.installer import verify

MACHINES = Path(__file__).resolve().parents[1] / "installer" / "machines"


def plan_for(name: str) -> list[str]:
    return ["install", "mamba-ssm", "causal-conv1d", "--for", str(MACHINES / f"{name}.json")]


def test_plan_for_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*plan_for("linux_h100_cu130"), "--lang", "en"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("You do not need this") and "cu13torch2.9" in out and "Changes:" in out


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*plan_for("wsl2_rtx5090_cu128"), "--json", "--from-source", "--lang", "en"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["done"] is False and document["plan"]["route"] == "source"


def test_cpu_torch_stops_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*plan_for("cpu_linux"), "--yes", "--lang", "en"]) == 1
    out = capsys.readouterr().out
    assert "Stopped before anything was done" in out and "CPU build" in out
    assert main([*plan_for("cpu_linux"), "--yes", "--lang", "zh"]) == 1
    assert "CPU 版" in capsys.readouterr().out


def test_a_blocked_plan_emits_no_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*plan_for("macos_arm64"), "--emit-script", "bash", "--lang", "en"]) == 1
    assert "#!/usr/bin/env" not in capsys.readouterr().out


def test_version_of_a_package(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "install",
        "mamba-ssm",
        "--version",
        "2.3.0",
        "--for",
        str(MACHINES / "wsl2_rtx5090_cu128.json"),
        "--json",
    ]
    assert main([*command, "--lang", "en"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert [(item["package"], item["version"], item["route"]) for item in plan["packages"]] == [
        ("mamba-ssm", "2.3.0", "source")
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["torch"],
        ["mamba-ssm", "--arch", "fast"],
        ["mamba-ssm", "--wheel", "nothing.whl"],
        ["mamba-ssm", "--for", "none.json"],
    ],
)
def test_wrong_usage_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    machine = [] if "--for" in words else ["--for", str(MACHINES / "cpu_linux.json")]
    assert main(["install", *words, *machine]) == 2
    assert capsys.readouterr().err


def test_a_machine_file_that_lacks_facts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "machine.json"
    path.write_text('{"facts": {"system": {}}}', "utf-8")
    assert main(["install", "mamba-ssm", "--for", str(path), "--lang", "en"]) == 2
    assert "doctor --json" in capsys.readouterr().err


def test_find_links_prefers_your_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "causal_conv1d-1.6.1-py3-none-any.whl").write_bytes(b"")
    command = [*plan_for("wsl2_rtx5090_cu128"), "--find-links", str(tmp_path), "--json"]
    assert main(command) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert {item["package"]: item["route"] for item in plan["packages"]} == {
        "causal-conv1d": "local",
        "mamba-ssm": "wheel",
    }


def test_a_wheel_file_that_does_not_fit_is_passed_over_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "causal_conv1d-1.6.1+cu12torch2.7cxx11abiTRUE-cp312-cp312-linux_x86_64.whl"
    wrong.write_bytes(b"")
    command = [*plan_for("wsl2_rtx5090_cu128"), "--json", "--lang", "en"]
    assert main([*command, "--find-links", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["plan"]["route"] == "wheel"
    assert "is not taken: it is made for CUDA 12, torch 2.7" in said.err
    assert main([*command, "--wheel", str(wrong)]) == 2
    assert "made for CUDA 12, torch 2.7" in capsys.readouterr().err


def test_find_links_takes_the_newest_or_the_version_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("1.5.2", "1.6.1", "1.5.10"):
        (tmp_path / f"causal_conv1d-{version}-cp312-cp312-linux_x86_64.whl").write_bytes(b"")
    machine = ["--for", str(MACHINES / "wsl2_rtx5090_cu128.json"), "--find-links", str(tmp_path), "--json"]
    for word, version in (("causal-conv1d", "1.6.1"), ("causal-conv1d==1.5.2", "1.5.2")):
        assert main(["install", word, *machine]) == 0
        package = json.loads(capsys.readouterr().out)["plan"]["packages"][0]
        assert (package["version"], package["route"]) == (version, "local")


def test_find_links_takes_source_archives_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mamba_ssm-2.3.2.post1.tar.gz", "mamba_ssm-2.3.1.tar.gz", "causal_conv1d-1.7.0.tar.gz", "einops-0.8.2.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    command = [*plan_for("linux_h100_cu130"), "--find-links", str(tmp_path), "--offline", "--no-deps", "--json"]
    assert main(command) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert [(item["version"], item["route"]) for item in plan["packages"]] == [("1.7.0", "source"), ("2.3.2.post1", "source")]
    command[1] = "mamba-ssm==2.3.1"
    assert main(command) == 0
    builds = [step["commands"][0][-1] for step in json.loads(capsys.readouterr().out)["plan"]["steps"] if step["kind"] == "build"]
    assert builds == [str(tmp_path / "causal_conv1d-1.7.0.tar.gz"), str(tmp_path / "mamba_ssm-2.3.1.tar.gz")]


def test_offline_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*plan_for("linux_h100_cu130"), "--offline", "--lang", "en"]) == 2
    assert "--find-links" in capsys.readouterr().err


def test_commands_are_shown_as_a_shell_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*plan_for("linux_h100_cu130"), "--lang", "en"]) == 0
    assert '"setuptools>=61.0.0"' in capsys.readouterr().out


def test_uninstall_of_what_was_not_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uninstall", "mamba-ssm", "--yes", "--lang", "en"]) == 1
    assert "pip uninstall mamba-ssm" in capsys.readouterr().err


def test_verification_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    result = verify.verify(["causal-conv1d"])
    assert result["ok"] is False and "causal_conv1d_cuda" in result["checks"][0]["text"]


def test_verification_compares_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from anymamba.reference.causal_conv1d import causal_conv1d_fn

    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return gradient * 1.05

    def wrong(x: torch.Tensor, *others: object, **options: object) -> torch.Tensor:
        return causal_conv1d_fn(WrongGradient.apply(x), *others, **options)  # type: ignore[arg-type]

    for function, right in ((causal_conv1d_fn, True), (wrong, False)):
        monkeypatch.setitem(sys.modules, "causal_conv1d", SimpleNamespace(causal_conv1d_fn=function))
        assert (verify._worst("causal-conv1d", "cpu") <= verify.TOLERANCE) is right


def test_a_failed_build_ends_in_a_diagnosis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "install.log"
    log.write_text(
        "$ python -m pip wheel causal-conv1d==1.6.1\nBuilding wheels for collected packages: causal-conv1d\n"
        "  NameError: name 'bare_metal_version' is not defined\nERROR: Failed to build causal-conv1d\n",
        "utf-8",
    )
    install._diagnose(log)
    assert "nvcc-missing" in capsys.readouterr().err
