"""Text, JSON and Markdown; nothing private in what is meant for an issue."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from anymamba.doctor import diagnose_log
from anymamba.doctor.report import document, markdown, text
from anymamba.doctor.report.privacy import scrub
from anymamba.language import set_language
from tests.doctor.corpus import LOGS, cases

LOG = LOGS / "isolation_cpu_torch_windows.txt"


@pytest.fixture(autouse=True)
def language() -> Iterator[None]:
    set_language("en")
    yield
    set_language(None)


def report(name: str = LOG.stem) -> Any:
    return diagnose_log(io.BytesIO((LOGS / f"{name}.txt").read_bytes()), name)


def test_json_has_everything_that_a_program_needs() -> None:
    made = json.loads(document.render(report()))
    first = made["findings"][0]
    assert first["cause"] == "build-isolation-cpu-torch"
    assert {"code", "cause", "confidence", "evidence", "remedies", "needed", "title", "explained_by"} <= set(first)
    assert made["findings"][1]["explained_by"] == "build-isolation-cpu-torch"
    assert first["remedies"][0]["shell"] == "powershell"
    assert made["source"]["recognised"]["torch_installed"] == "2.4.0+cu121"
    assert made["healthy"] is False


def test_text_shows_cause_evidence_and_commands_of_this_shell() -> None:
    shown = text.render(report())
    assert "[AM005] build-isolation-cpu-torch (certain)" in shown
    assert "line 16 | torch.__version__  = 2.6.0+cpu" in shown
    assert "pip install --no-build-isolation" in shown
    assert "\x1b" not in shown


def test_every_report_exists_in_chinese() -> None:
    set_language("zh")
    for case in cases():
        made = diagnose_log(io.BytesIO(case.log), case.name)
        shown = text.render(made)
        assert "需要修复吗" in shown
        for finding in made.findings:
            assert any("\u4e00" <= character <= "\u9fff" for character in finding.title)


def test_linux_log_gets_commands_of_its_place() -> None:
    shells = {step.shell for finding in report("nvcc_missing_docker_runtime").findings for step in finding.remedies}
    assert shells == {"dockerfile"}
    shells = {step.shell for finding in report("abi_cxx11").findings for step in finding.remedies}
    assert shells == {"bash"}


def test_unknown_offers_what_was_recognised() -> None:
    made = report("unknown_flash_attn")
    shown = text.render(made)
    assert "no diagnosis" in shown and "--markdown" in shown
    assert any("NameError" in item.text for item in made.findings[0].evidence)


def test_colour_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert text.colourful(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not text.colourful(io.StringIO())


PRIVATE = """
(mamba) alice@gpu-node17:/home/alice/work$ pip install mamba-ssm -i https://bob:hunter2@pypi.corp-secret.example.net/simple
C:\\Users\\Wang Xiaoming\\AppData\\Local\\Temp\\pip-build-env\\overlay\\Lib\\site-packages\\torch\\x.py
File "C:\\\\Users\\\\carol\\\\x.py"
/Users/dave/.cache/uv/builds-v0/.tmpA/lib  dave was here
export HF_TOKEN=hf_abcdefghijklmnopqrstuvwx12345  api_key: "sk-abcdefghij0123456789"
Authorization: Bearer abcdefghijklmnop.qrstuv  mail erin@example.org  ip 10.1.2.3 and ghp_abcdefghijklmnopqrstuvwxyz0123456789
server build01.corp.internal  gpu GPU-12345678-1234-1234-1234-123456789abc
"""
# fmt: off
SECRETS = [
    "alice", "gpu-node17", "bob", "hunter2", "corp-secret", "Xiaoming", "carol", "dave", "hf_abc", "sk-abc",
    "abcdefghijklmnop", "erin", "10.1.2.3", "ghp_", "build01", "GPU-1234",
]
# fmt: on


def test_scrub_takes_private_data_out() -> None:
    clean = scrub(PRIVATE)
    assert [secret for secret in SECRETS if secret in clean] == []
    assert "site-packages" in clean and "pip install mamba-ssm" in clean


def test_scrub_keeps_what_matters() -> None:
    kept = (
        "torch 2.10.0.1+cu128 https://github.com/state-spaces/mamba/releases/download/v2.3.1/mamba_ssm-2.3.1+cu12torch2.8cxx11abiTRUE"
        "-cp312-cp312-linux_x86_64.whl undefined symbol: _ZN3c104cuda9SetDeviceEi release 12.4, V12.4.131 driver 560.35.03"
    )
    assert scrub(kept) == kept


def test_markdown_is_scrubbed() -> None:
    log = (
        PRIVATE.encode() + b"/home/alice/venv/setup.py: UserWarning: mamba_ssm was requested, but nvcc was not found\n"
    )
    made = markdown.render(diagnose_log(io.BytesIO(log), "/home/alice/build.log"))
    assert "nvcc-missing" in made
    assert [secret for secret in SECRETS if secret in made] == []
