"""What the tests of training share: a tiny model, options that make a run small, the command line in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.tokenizer import byte_tokenizer
from anymamba.training.run.runfolder import read_metrics


def tiny_model(folder: Path, model: str = "mamba", width: int = 32, layers: int = 2) -> Path:
    """A freshly initialised checkpoint to start from."""
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    if model == "mamba":
        config: Any = MambaConfig(vocab_size=264, hidden_size=width, num_hidden_layers=layers, state_size=8, **ids)
    else:
        config = Mamba2Config(
            vocab_size=264, hidden_size=width, num_hidden_layers=layers, state_size=16, head_dim=16, num_heads=2 * width // 16,
            n_groups=1, chunk_size=32, tie_word_embeddings=True, **ids,
        )  # fmt: skip
    hub.save(LanguageModel(config), folder, tokenizer)
    return folder


def settings(start: Path, out: Path, *data: Path, **options: Any) -> dict[str, Any]:
    """The options that make a run small."""
    defaults: dict[str, Any] = {
        "data": [str(path) for path in data], "start": str(start), "out": str(out), "length": 64, "batch_tokens": 512,
        "steps": 6, "sample_every": -1, "precision": "fp32", "lr": 3e-3, "device": "cpu", "eval_tokens": 1024,
    }  # fmt: skip
    return {**defaults, **options}


def flags(options: dict[str, Any]) -> list[str]:
    """The same as command-line flags."""
    words: list[str] = []
    for name, value in options.items():
        flag = "--from" if name == "start" else "--" + name.replace("_", "-")
        if name == "data":
            words += value
        elif isinstance(value, bool):
            words += [flag] if value else []
        else:
            words += [flag, str(value)]
    return words


def command(*arguments: str, module: str = "anymamba", **more: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ANYMAMBA_LANG": "en", **more.pop("environment", {})}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    """The training losses of a run, to the last bit."""
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]
