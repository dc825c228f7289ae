"""Weights in four bits: how far they are off, in every family, one row and many, saved and loaded without a copy, and bad folders."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.generation.test_quantize import CONFIGS

from anymamba import announce
from anymamba.errors import AnymambaError
from anymamba.generation.engine import Reader
from anymamba.generation.quantize import QuantizedLinear, quantize_int4
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba3 import Mamba3Config
from anymamba.models.trunk.stored_linear import StoredEmbedding, StoredLinear, unpacked_state
from anymamba.reference import blocks

FAMILIES = {**CONFIGS, "mamba3": Mamba3Config(vocab_size=64, hidden_size=32, num_hidden_layers=2, head_dim=16, state_size=16)}


@pytest.mark.parametrize("name", blocks.BYTES)
def test_a_weight_is_off_by_half_a_step_at_most(name: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 96)
    groups = weight.view(5, 3, 32)
    largest, spread = groups.abs().amax(-1, keepdim=True), groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
    step = {"q8_0": largest / 127, "q4_0": largest / 8, "q4_1": spread / 15}[name]
    # q4_0 has no number for the largest weight of the other sign; a minimum in 16 bits is rounded itself
    room = {"q8_0": 0.51, "q4_0": 1.01, "q4_1": 0.55}[name]
    off = blocks.unpacked(blocks.packed(weight, name), 96).view(5, 3, 32) - groups
    assert (off.abs() <= room * step).all()


def test_blocks_of_one_value_and_of_none() -> None:
    for name in blocks.BYTES:
        for value in (0.0, 1.0, -3.0):
            unpacked = blocks.unpacked(blocks.packed(torch.full((2, 32), value), name), 32)
            torch.testing.assert_close(unpacked, torch.full((2, 32), value), rtol=1e-3, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 3, 6])
def test_a_step_says_what_the_whole_sequence_says(family: str, rows: int) -> None:
    torch.manual_seed(0)
    whole = LanguageModel(FAMILIES[family]).requires_grad_(False)
    model = quantize_int4(copy.deepcopy(whole))
    plain = copy.deepcopy(whole)
    plain.load_state_dict(unpacked_state(model))
    ids = torch.randint(64, (rows, 9))
    logits = model(ids).logits
    torch.testing.assert_close(logits, plain(ids).logits, rtol=1e-3, atol=1e-4)
    reader = Reader(model, rows)
    reader.read(ids[:, :8])
    torch.testing.assert_close(reader.step(ids[:, 8]), logits[:, -1], rtol=2e-3, atol=2e-3)


def test_rows_that_are_no_whole_blocks() -> None:
    said: list[str] = []
    announce.listen(said.append)
    try:
        model = quantize_int4(LanguageModel(MambaConfig(vocab_size=64, hidden_size=48, num_hidden_layers=1)))
    finally:
        announce.listen(None)
    assert isinstance(model.backbone.layers[0].mixer.in_proj, QuantizedLinear)
    assert isinstance(model.backbone.layers[0].mixer.out_proj, StoredLinear)
    assert len(said) == 1 and "layers.0.mixer.in_proj" in said[0]


def test_a_folder_is_read_without_a_copy(tmp_path: Path) -> None:
    model = quantize_int4(LanguageModel(CONFIGS["mamba"]).requires_grad_(False))
    hub.save(model, tmp_path / "a")
    again = hub.load(tmp_path / "a")
    assert isinstance(again.backbone.embeddings, StoredEmbedding)
    assert again.lm_head.weight.data_ptr() == again.backbone.embeddings.weight.data_ptr()
    ids = torch.randint(64, (1, 9))
    assert torch.equal(again.requires_grad_(False)(ids).logits, model(ids).logits)
    size = (tmp_path / "a" / "model.safetensors").stat().st_size
    assert size < sum(parameter.numel() for parameter in LanguageModel(CONFIGS["mamba"]).parameters()) * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry | {"quant_method": "gptq"}, "gptq"),
        (lambda entry: entry | {"version": 7}, "version"),
    ],
)  # fmt: skip
def test_a_folder_that_others_rounded(change: object, words: str, tmp_path: Path) -> None:
    hub.save(quantize_int4(LanguageModel(CONFIGS["mamba"])), tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["quantization_config"] = change(config["quantization_config"])  # type: ignore[operator]
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    with pytest.raises(AnymambaError, match=words):
        hub.load(tmp_path / "a")


def test_a_matrix_of_another_size(tmp_path: Path) -> None:
    hub.save(quantize_int4(LanguageModel(CONFIGS["mamba"])), tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"state_size": 8}))
    with pytest.raises(AnymambaError, match="x_proj|A_log"):
        hub.load(tmp_path / "a")
