"""The demo: quick on a few steps here, in full behind ``slow``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anymamba.cli import main
from anymamba.training.run import demo


def test_the_corpus_has_every_paragraph_once() -> None:
    parts = demo.sections()
    paragraphs = [" ".join(paragraph.split()) for part in parts for paragraph in part.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))
    assert 200_000 < sum(map(len, parts)) < 600_000 and len(parts) > 50


def test_a_python_without_the_text_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert main(["demo", "--out", str(tmp_path / "run")]) == 1
    assert "anymamba train FILE" in capsys.readouterr().err


def test_the_demo_shows_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    full = demo.demo_config

    def short(*given: Any) -> Any:
        config = full(*given)
        config.steps, config.eval_tokens, config.length, config.batch_tokens = 12, 512, 64, 256
        return config

    monkeypatch.setattr(demo, "demo_config", short)
    monkeypatch.setattr(demo, "SLICE", 8)
    assert main(["demo", "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("The ") and len(told.out) > 20
    for part in ("loss (nats a token)", "selective_scan_fn", "times faster", "bits per byte after 12 steps"):
        assert part in told.err, part
    assert main(["demo", "--out", str(tmp_path / "again"), "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    compared = document["comparison"]
    assert compared["times_faster"] == pytest.approx(compared["sequential_seconds"] / compared["seconds"], abs=0.06)
    assert compared["threads"] == 1 and compared["repetitions"] >= 3 and compared["rows"] == 4
    assert document["backends"] and document["steps"] == 12


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under 3 minutes on 2 quiet cores; here the time is only reported, since a busy machine proves nothing."""
    assert main(["demo", "--out", str(tmp_path / "run"), "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bits_per_byte"] < 1.9, document
    assert document["times_faster"] > 5
    from pydoc_data.topics import topics

    known = set(re.findall(r"[a-z]{2,}", " ".join(topics.values()).lower()))
    words = re.findall(r"[a-z]{2,}", document["paragraph"].lower())
    assert len(words) > 30 and sum(word in known for word in words) > 0.8 * len(words), document["paragraph"]
