"""A model of a few thousand parameters and a corpus of a few pages: every test of training takes seconds."""

from __future__ import annotations

import json
import pydoc_data.topics
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import settings, tiny_model

from anymamba.training.loop.loop import Result
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.train import train
from anymamba.training.show.report import Reporter


@pytest.fixture(scope="session")
def text() -> str:
    """English prose that every Python has."""
    return "\n".join(list(pydoc_data.topics.topics.values())[:6])[:24_000]


@pytest.fixture
def corpus_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def documents_file(tmp_path: Path, text: str) -> Path:
    """JSONL of 40 short documents, so that rows hold several."""
    path = tmp_path / "documents.jsonl"
    pieces = [text[at : at + 120 + 13 * (at % 7)] for at in range(0, 24_000, 600)]
    path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces), "utf-8")
    return path


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "start")


@pytest.fixture
def small_run(tmp_path: Path, start: Path) -> Callable[..., Result]:
    """Trains a few steps: ``small_run(data, steps=4, out="a", resume="auto")``."""

    def run(*data: Path, resume: str = "", out: str = "run", begin: Path = start, **options: Any) -> Result:
        config = TrainConfig(**settings(begin, tmp_path / out, *data, **options))
        return train(config, resume, Reporter(quiet=True))

    return run


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    """A format that must be learnt: {"result": N} for sums of one digit."""
    path = tmp_path / "sums.jsonl"
    choose = random.Random(5)
    lines = []
    for _ in range(64):
        a, b = choose.randrange(5), choose.randrange(5)
        lines.append(json.dumps({"prompt": f"{a}+{b}", "response": json.dumps({"result": a + b})}))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
