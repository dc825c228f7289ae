"""Hybrids' bad and borderline input: errors name the file and the key, and what is only unusual is said once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import anymamba
from anymamba.cli import main
from anymamba.errors import AnymambaError, AnymambaWarning
from anymamba.generation.quantize import quantize
from anymamba.models import hub
from anymamba.models.footprint import footprint
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size
from anymamba.numerics import drift
from anymamba.numerics.sides import Side

GRANITE: dict[str, Any] = {
    "model_type": "granitemoehybrid", "hidden_size": 32, "num_hidden_layers": 2, "layer_types": ["mamba", "attention"],
    "num_attention_heads": 4, "num_key_value_heads": 4, "mamba_n_heads": 4, "mamba_d_state": 8, "num_local_experts": 0, "vocab_size": 64,
    "shared_intermediate_size": 16, "attention_multiplier": 0.2, "max_position_embeddings": 16,
}  # fmt: skip


def folder(tmp_path: Path, **values: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({**GRANITE, **values}))
    return tmp_path


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layer_types": ["mamba", "sliding"]}, ["layer_types", "layer 1", "'sliding'"]),
        ({"layer_types": ["mamba"]}, ["layer_types", "1 layers", "num_hidden_layers is 2"]),
        ({"mamba_d_head": 5}, ["mamba_n_heads", "mamba_d_head", "64 channels"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads 3"]),
        ({"position_embedding_type": "alibi"}, ["position_embedding_type", "'alibi'"]),
        ({"position_embedding_type": "rope", "rope_scaling": {"type": "su"}}, ["rope_type", "'su'"]),
        ({"quantization_config": {"quant_method": "fp8"}}, ["quantization_config", "fp8"]),
        ({"transformers_version": "6.1.0", "gate_softcap": 3.0}, ["gate_softcap", "6.1.0"]),
        ({"hidden_size": "wide"}, ["hidden_size"]),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "MX", "layer_types": None}, ["hybrid_override_pattern", "'X'"]),
        ({"model_type": "bamba", "attn_layer_indices": [2]}, ["attn_layer_indices", "layer 2"]),
        ({"model_type": "jamba", "attn_layer_offset": 8}, ["attn_layer_offset", "attn_layer_period"]),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_names_file_and_key(tmp_path: Path, values: dict[str, Any], words: list[str]) -> None:
    place = folder(tmp_path, **values)
    with pytest.raises(AnymambaError) as caught:
        hub.load_config(place)
    for word in [*words, "config.json"]:
        assert word in str(caught.value)


def test_what_a_known_transformers_wrote_is_taken_whatever_else_it_says(tmp_path: Path) -> None:
    config = hub.load_config(folder(tmp_path, transformers_version="4.57.1", router_jitter_noise=0.1))
    assert config.to_dict()["router_jitter_noise"] == 0.1, "and written again"
    hub.load_config(folder(tmp_path, transformers_version="6.1.0", use_cache=True))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    model = LanguageModel(hub.load_config(folder(tmp_path)))
    hub.save(model, tmp_path / "whole", shard_bytes=4000)
    next(iter(sorted((tmp_path / "whole").glob("model-00002-*")))).unlink()
    with pytest.raises(AnymambaError, match=r"model.safetensors.index.json(.|\n)*model-00002-of") as caught:
        hub.load(tmp_path / "whole")
    assert "files that are missing" in str(caught.value)


def test_a_longer_text_than_trained_on_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anymamba.errors._said", set())
    model = LanguageModel(hub.load_config(folder(tmp_path))).eval()
    cache = model.make_cache()
    with torch.no_grad(), pytest.warns(AnymambaWarning, match="16 tokens") as said:
        for __ in range(4):
            model(torch.ones(1, 6, dtype=torch.long), cache=cache)
    assert len(said) == 1


def test_a_text_begun_in_inference_mode_goes_on_outside(tmp_path: Path) -> None:
    model = LanguageModel(hub.load_config(folder(tmp_path, max_position_embeddings=64))).eval()
    ids = torch.randint(64, (2, 12))
    cache = model.make_cache(2)
    with torch.inference_mode():
        model(ids[:, :4], cache=cache)
    with torch.no_grad():
        second = model(ids[:, 4:8], cache=cache).logits
    third = model(ids[:, 8:], cache=cache).logits
    assert second is not None and third is not None
    third.sum().backward()
    torch.testing.assert_close(torch.cat([second, third.detach()], 1), model(ids).logits[:, 4:].detach())  # type: ignore[index]


def test_plan_says_what_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path)
    words = ["generate", str(tmp_path), "--plan", "--device", "cpu", "--max-tokens", "100", "--prompt", "1234"]
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["key_value_bytes_per_token"] == 2 * 32 * 4 and plan["key_value_bytes"] == 104 * 256 and plan["context"] == 16
    assert plan["fits"] is True and plan["weight_bytes"] == 4 * footprint(hub.load_config(tmp_path)).parameters
    assert main(words) == 0
    assert "256 bytes a token" in capsys.readouterr().out


def test_a_model_that_memory_cannot_hold_is_refused_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.save(LanguageModel(hub.load_config(folder(tmp_path))), tmp_path / "model")
    monkeypatch.setattr("anymamba.training.machine.memory.left", lambda device: 20_000)
    assert main(["generate", str(tmp_path / "model"), "--device", "cpu", "--dtype", "bfloat16", "--max-tokens", "9"]) == 1
    told = capsys.readouterr().err
    assert "does not fit into memory" in told and "keys and values of 9 tokens" in told and "--quantize" in told


def test_the_front_door_begins_trains_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train from scratch, generate, int8, a state on disk: a hybrid by the command line."""
    book = tmp_path / "book.txt"
    book.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    run, state = tmp_path / "run", tmp_path / "state.safetensors"
    options = ["--model", "granitemoehybrid", "--size", "tiny", "--steps", "1", "--length", "32", "--batch-tokens", "64", "--device", "cpu"]
    assert main(["train", str(book), "--out", str(run), *options, "--sample-every", "-1"]) == 0
    capsys.readouterr()
    short = ["--max-tokens", "4", "--device", "cpu", "-q"]
    assert main(["generate", str(run), "--prompt", "the quick", "--save-state", str(state), *short]) == 0
    assert main(["generate", str(run), "--load-state", str(state), *short]) == 0
    assert capsys.readouterr().out
    assert type(anymamba.load(run, device="cpu", quantize="int8").generate("the quick", 3)) is str
    texts = anymamba.load(run, device="cpu").generate(["the", "the quick brown"], 3)
    assert texts == [anymamba.load(run, device="cpu").generate(text, 3) for text in ("the", "the quick brown")]


@pytest.mark.parametrize("name", ["granitemoehybrid", "falcon_h1", "nemotron_h", "jamba", "zamba2"])
def test_every_kind_of_state_is_compared_and_rounded_weights_come_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = config_of_size("tiny", name, 264)
    model = LanguageModel(config).eval()
    ids = torch.randint(0, 264, (16,))
    outcome = drift.teacher_forced(model, Side("cpu", backend="cpu"), Side("torch", backend="torch"), drift.pieces_of(ids), 16)
    mixers = sum(len(layer.recurrent()) for layer in model.make_cache(1).layers)
    assert mixers and len(outcome.layer_differences) == mixers and max(outcome.layer_differences) < 1e-4
    hub.save(quantize(model, "int8"), tmp_path)
    torch.testing.assert_close(hub.load(tmp_path)(ids[None]).logits, model(ids[None]).logits)


def test_a_shared_block_counts_once() -> None:
    config = config_of_size("tiny", "zamba2", 264)
    taken = footprint(config)
    assert taken.quantized < taken.parameters and taken.token > 0
