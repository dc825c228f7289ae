"""generate --deterministic writes the same tokens on every run; --residual and --resync change rounding, nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anymamba.cli import main
from anymamba.generation import engine
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.tokenizer import byte_tokenizer


@pytest.fixture(params=["mamba", "mamba2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    sizes = {"vocab_size": 272, "hidden_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3, "tie_word_embeddings": False}
    config = (
        MambaConfig(**sizes)
        if request.param == "mamba"
        else Mamba2Config(**sizes, num_heads=6, head_dim=16, n_groups=1, state_size=24)
    )
    hub.save(LanguageModel(config), tmp_path / "model", tokenizer=byte_tokenizer())
    return tmp_path / "model"


def text_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["generate", *words, "--json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)["results"][0]["text"]


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_the_same_tokens_on_every_run(folder: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder), "-p", "The ", "-m", "60", "--temp", "1.0", "--backend", backend]
    texts = [text_of(capsys, *words, "--deterministic") for _ in range(3)]
    assert len(texts[0]) > 10 and texts[0] == texts[1] == texts[2]
    assert text_of(capsys, *words, "--deterministic", "--seed", "5") != texts[0]
    assert not torch.are_deterministic_algorithms_enabled()


def test_in_two_processes(folder: Path) -> None:
    words = [str(folder), "-p", "The ", "-m", "60", "--temp", "1.0", "--deterministic", "-q"]
    texts = [
        subprocess.run([sys.executable, "-m", "anymamba", "generate", *words], capture_output=True, check=True).stdout for _ in range(2)
    ]
    assert texts[0] and texts[0] == texts[1]


def test_torch_is_deterministic_while_it_generates(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sees(*_: object) -> None:
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")

    monkeypatch.setattr(engine.Reader, "read", sees)
    assert main(["generate", str(folder), "-p", "The ", "--deterministic", "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert "cumsum_cuda_kernel has no deterministic form" in error and "--backend" in error


def test_reading_again_and_the_residual_change_no_clear_choice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder), "-p", "The quick brown", "-m", "40"]
    plain = text_of(capsys, *words)
    assert text_of(capsys, *words, "--resync", "7") == plain
    assert text_of(capsys, *words, "--residual", "dtype") == plain  # float32 weights: the same thing
    assert main(["generate", *words, "--resync", "-1"]) == 2
    capsys.readouterr()
