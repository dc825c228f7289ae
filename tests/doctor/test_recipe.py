"""The recipe "Add a diagnosis" of CONTRIBUTING.md, followed with a cause that nobody has: what it says is true and enough.

The paths and words below are taken from the recipe's own text, so that a recipe that changes changes what is done here.
"""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anymamba.doctor import page, rules
from tests.doctor import corpus, test_logs, test_rules

ROOT = Path(__file__).resolve().parents[2]

RULE = '''"""A snake in the machine."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM999",
    cause="snake-in-machine",
    order=990,
    signatures=(Signature(r"mamba_ssm: unexpected hissing at fan \\d+", own=True),),
)
'''
PAGES = {
    "en": '''# AM999 snake-in-machine

A snake lives in the machine.

## Why it happens

The fan was warm, and the case was open.

## Do you need to fix it?

{only-official}

## What to do, in this order

1. Show it the door.

   ```bash
   pip install mamba-ssm=={mamba}
   ```
''',
    "zh": '''# AM999 snake-in-machine

机器里有一条蛇。

## 原因

风扇温暖，机箱敞开。

## 需要修复吗？

{only-official}

## 按顺序尝试

1. 请它离开。

   ```bash
   pip install mamba-ssm=={mamba}
   ```
''',
}
LOG = "Collecting mamba-ssm\nRuntimeError: mamba_ssm: unexpected hissing at fan 2\n"


def steps() -> list[str]:
    """The numbered steps of the recipe, each in one line."""
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Add a diagnosis\n")[1].split("\n## ")[0].strip().split("\n\n")[0]
    return [" ".join(step.split()) for step in re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]]


Follow = Callable[[str], None]


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Follow]:
    """Steps 1 and 2, in a copy of the tree that has nothing but what they add."""
    first, second, _ = steps()
    path = re.search(r"`(src/anymamba/doctor/rules/<theme>/<cause>/__init__\.py)`", first)
    log = re.search(r"`(tests/doctor/logs/<cause>\.txt)`", second)
    expected = re.search(r'`(\{"causes": \["my-cause"\]\})`', second)
    assert path and log and expected and "`en.md`" in first and "`zh.md`" in first
    modules = set(sys.modules)

    def write(rule: str) -> None:
        file = tmp_path / path[1].replace("<theme>", "devices").replace("<cause>", "snake_in_machine")
        file.parent.mkdir(parents=True)
        file.write_text(rule, "utf-8")
        for language, text in PAGES.items():
            (file.parent / f"{language}.md").write_text(text, "utf-8")
        theme = importlib.import_module("anymamba.doctor.rules.devices")
        monkeypatch.setattr(theme, "__path__", [*theme.__path__, str(file.parent.parent)])
        monkeypatch.setattr(rules, "_rules", ())
        text = tmp_path / log[1].replace("<cause>", "snake_in_machine")
        text.parent.mkdir(parents=True)
        text.write_text(LOG, "utf-8")
        text.with_suffix(".json").write_text(expected[1].replace("my-cause", "snake-in-machine"))
        monkeypatch.setattr(corpus, "LOGS", text.parent)

    yield write
    for name in sys.modules.keys() - modules:
        if name.endswith(".snake_in_machine"):
            del sys.modules[name]


def test_the_doctor_names_it_with_commands_that_can_be_run(follow: Follow) -> None:
    follow(RULE)
    (case,) = corpus.cases()
    test_logs.test_causes(case)
    test_logs.test_evidence_is_in_the_log(case)
    (finding,) = corpus.diagnose(case.log)
    assert finding.confidence == "certain" and "{" not in finding.remedies[0].commands[0]


def test_the_rule_is_complete(follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(RULE)
    monkeypatch.setattr(test_rules, "ROOT", tmp_path)  # where its file is looked for
    test_rules.test_rule_is_complete(rules.by_name()["snake-in-machine"])
    test_rules.test_no_blank_is_left_open(rules.by_name()["AM999"])


def test_the_commands_write_its_pages(follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(RULE)
    script = re.search(r"`python (scripts/\S+)`", steps()[2])
    words = re.search(r"`python -m (\S+) (\S+)`", steps()[2])
    folders = re.findall(r"`(docs/\w+/errors/)`", steps()[2])
    assert script and words and len(folders) == 2
    collect = runpy.run_path(str(ROOT / script[1]))["main"]
    monkeypatch.setitem(collect.__globals__, "LOGS", corpus.LOGS)
    monkeypatch.setattr(rules, "_rules", (rules.by_name()["AM999"],))  # nothing is written into the pages of all others
    collect()
    page.read.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [words[1], words[2]])
    monkeypatch.delitem(sys.modules, words[1], raising=False)
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    english, chinese = ((tmp_path / folder / "AM999.md").read_text("utf-8") for folder in folders)
    assert "A snake lives in the machine" in english and "Show it the door." in english
    assert "unexpected hissing at fan 2" in english and "unexpected hissing at fan 2" in chinese and "机器里有一条蛇" in chinese


def test_a_rule_without_a_log_fails_the_tests(follow: Follow) -> None:
    follow(RULE)
    with pytest.raises(AssertionError, match="snake-in-machine"):
        test_logs.test_every_rule_has_a_log()  # the real corpus, which was read before this rule came


def test_so_does_a_log_of_something_else_that_the_rule_claims(follow: Follow) -> None:
    follow(RULE.replace("mamba_ssm: unexpected hissing at fan \\d+", "No module named").replace("order=990", "order=1"))
    lost = [case.name for case in test_logs.CASES if "No module named" in case.log.decode("utf-8", "replace")][:5]
    wrong = 0
    for case in test_logs.CASES:
        if case.name in lost:
            try:
                test_logs.test_causes(case)
            except AssertionError:
                wrong += 1
    assert lost and wrong == len(lost)
