"""Runs that train adapters: what a step folder holds, going on bit for bit, stage 2, and what is refused before anything is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import losses

import anymamba
from anymamba.errors import AnymambaError
from anymamba.generation.model import load
from anymamba.models import lora
from anymamba.training.loop.loop import Result
from anymamba.training.run.config import TrainConfig, checked_ranges

Train = Callable[..., Result]


def test_a_step_folder_is_an_adapter_of_the_base(small_run: Train, corpus_file: Path, start: Path, tmp_path: Path) -> None:
    result = small_run(corpus_file, lora=4, lora_targets="all", steps=8, lr=2e-2)
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.05
    names = {path.name for path in result.checkpoint.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "optimizer.safetensors"} <= names
    assert "model.safetensors" not in names and "config.json" not in names
    settings = json.loads((result.checkpoint / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (4, 8, str(start))
    # the base is what it was: only the adapters have moved
    tuned, base = load(result.checkpoint, "cpu"), load(start, "cpu")
    assert tuned.adapters == ["default"] and tuned.tokenizer is not None
    ids = torch.arange(20)[None]
    assert not torch.allclose(tuned(ids).logits, base(ids).logits, atol=1e-4)
    tuned.set_adapter()
    torch.testing.assert_close(tuned(ids).logits, base(ids).logits, rtol=1e-5, atol=1e-6)
    named = load(start, "cpu", adapter={"one": result.checkpoint, "two": result.checkpoint.parent})
    assert named.adapters == ["one", "two"]


@pytest.mark.parametrize("options", [{"lora_dropout": 0.3}, {"dora": True, "micro_batch": 2, "checkpointing": "on"}])
def test_a_resumed_run_goes_on_to_the_last_bit(small_run: Train, corpus_file: Path, tmp_path: Path, options: dict) -> None:
    more = {"lora": 3, "lora_targets": "in_proj,x_proj,out_proj", "save_every": 3, "keep": 0, **options}
    whole = small_run(corpus_file, steps=6, out="whole", **more)
    small_run(corpus_file, steps=6, out="parts", **more)
    for name in ("step-000006", "best"):
        for file in (tmp_path / "parts" / name).glob("*"):
            file.unlink()
        (tmp_path / "parts" / name).rmdir()
    again = small_run(corpus_file, steps=6, out="parts", resume="auto", **more)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert (again.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes(), name


def test_accumulation_and_recomputation_change_no_number(small_run: Train, corpus_file: Path, tmp_path: Path) -> None:
    small_run(corpus_file, lora=4, steps=4, out="whole", micro_batch=8)
    small_run(corpus_file, lora=4, steps=4, out="parts", micro_batch=2, checkpointing="on")
    torch.testing.assert_close(torch.tensor(losses(tmp_path / "parts")), torch.tensor(losses(tmp_path / "whole")), rtol=1e-5, atol=1e-5)


def test_stage_2(small_run: Train, instructions: Path, tmp_path: Path) -> None:
    result = small_run(instructions, instruct=True, lora=4, steps=4, precision="bf16")
    model = load(result.checkpoint, "cpu")
    assert model.tokenizer is not None and model.tokenizer.chat_template
    assert lora.leaves(list(lora.adapters_of(model, "default"))) == ["in_proj", "x_proj"]
    assert all(adapter.A.dtype == torch.float32 for adapter in lora.adapters_of(model, "default").values())


@pytest.mark.parametrize("width", ["int8", "int4"])
def test_a_rounded_base(small_run: Train, corpus_file: Path, start: Path, tmp_path: Path, width: str) -> None:
    more = {"lora": 4, "lora_targets": "all", "quantize": width, "save_every": 3, "keep": 0, "lr": 2e-2}
    result = small_run(corpus_file, steps=6, **more)
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    model = load(start, "cpu", quantize=width, adapter=result.checkpoint)
    assert model.adapters == ["default"] and model.generate("The ", 4) is not None
    assert result.score is not None
    again = anymamba.evaluate(model, corpus_file)
    assert again.perplexity < anymamba.evaluate(load(start, "cpu", quantize=width), corpus_file).perplexity


def test_the_front_door(corpus_file: Path, start: Path, tmp_path: Path) -> None:
    run = anymamba.train(
        corpus_file, start=start, out=tmp_path / "run", lora=2, steps=2, length=32, batch_tokens=64, progress=False, device="cpu",
        sample_every=-1, validation=0.0,
    )  # fmt: skip
    assert run.model.adapters == ["default"]
    with pytest.raises(AnymambaError, match="rank must be at least 1"):
        anymamba.train(corpus_file, start=start, out=tmp_path / "other", lora=0, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": 0}, "--lora 0: the rank"),
        ({"lora": -4}, "--lora -4: the rank"),
        ({"lora": 4, "lora_targets": "q_proj"}, "--lora-targets q_proj: a mamba model has no such layer(.|\n)*in_proj, x_proj"),
        ({"quantize": "int8"}, "--quantize says how --lora is done"),
        ({"lora_alpha": 4.0}, "--lora-alpha says how --lora is done"),
        ({"lora": 4, "lora_dropout": 1.5}, "--lora-dropout"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(
    small_run: Train, corpus_file: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(AnymambaError, match=words):
        small_run(corpus_file, **options)
    assert not (tmp_path / "run").exists()


def test_adapters_without_a_model_are_refused() -> None:
    with pytest.raises(AnymambaError, match="--from MODEL"):
        checked_ranges(TrainConfig(lora=4))
