"""The README's hybrid command, with random weights of the shape that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from tests.models.test_released_sizes import RELEASED

from anymamba.cli import main
from anymamba.models import families, hub
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import byte_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_readmes_hybrid_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = re.search(r"`(anymamba generate ibm-granite/(granite-4.0-h-350m) [^`]*)`", (ROOT / "README.md").read_text("utf-8"))
    assert command
    tokenizer = byte_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    config = families.family("granitemoehybrid").config.from_dict({**RELEASED[command[2]][0], **ids})
    with torch.device("cpu"):
        hub.save(LanguageModel(config).to(torch.bfloat16), tmp_path / "model", tokenizer)
    words = shlex.split(command[1])[1:]
    words[1] = str(tmp_path / "model")
    assert main([*words, "--device", "cpu"]) == 0
    # most ids of so large a vocabulary are no text to a byte tokenizer: what counts is that all tokens were written
    assert "100 tokens" in capsys.readouterr().err
