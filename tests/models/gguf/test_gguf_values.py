"""Weights from GGUF files: every type as gguf itself unpacks it, matrices used as they lie, one line for what was unpacked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.models.gguf.files import CONFIGS, model_of, write

from anymamba import announce
from anymamba.models.gguf.file import GGUFFile
from anymamba.models.gguf.load import load_as
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.trunk.stored_linear import StoredLinear, unpacked_state

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_unpacked_as_its_own_package_does(kind: str, tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=16, hidden_size=256, num_hidden_layers=1, tie_word_embeddings=False)
    held = write(model_of("mamba", config), tmp_path / "a.gguf", kind)
    said: list[str] = []
    announce.listen(said.append)
    try:
        model = load_as(LanguageModel, GGUFFile(tmp_path / "a.gguf"), None, CPU)
    finally:
        announce.listen(None)
    state = unpacked_state(model)
    for name, values in held.items():
        assert torch.equal(state[name], values), name
    as_it_lies = kind in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
    assert isinstance(model.backbone.layers[0].mixer.in_proj, StoredLinear) == as_it_lies
    assert [kind in text for text in said] == ([] if as_it_lies or kind == "F32" else [True])


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_logits_are_those_of_the_values_in_the_file(family: str, kind: str, tmp_path: Path) -> None:
    """In one pass and step by step, by the fused step and without it."""
    plain = model_of(family)
    for name, values in write(plain, tmp_path / "a.gguf", kind).items():
        plain.get_parameter(name).copy_(values)
    if plain.config.tie_word_embeddings:
        plain.lm_head.weight = plain.backbone.embeddings.weight
    model = load_as(LanguageModel, GGUFFile(tmp_path / "a.gguf"), None, CPU)
    assert {type(model.config)} == {type(plain.config)}
    ids = torch.randint(96, (2, 12))
    want = plain(ids).logits
    torch.testing.assert_close(model(ids).logits, want, rtol=1e-4, atol=1e-4)
    cache = model.make_cache(2)
    model(ids[:, :9], cache=cache)
    for place in range(9, 12):
        logits = model(ids[:, place : place + 1], cache=cache).logits
    torch.testing.assert_close(logits[:, 0], want[:, -1], rtol=1e-3, atol=1e-3)


def test_the_fused_step_reads_blocks(tmp_path: Path) -> None:
    from anymamba.generation.engine import Reader

    for kind in ("Q8_0", "Q4_0", "Q4_1"):
        write(model_of("mamba"), tmp_path / "a.gguf", kind)
        model = load_as(LanguageModel, GGUFFile(tmp_path / "a.gguf"), None, CPU).requires_grad_(False)
        ids = torch.randint(96, (1, 7))
        reader = Reader(model)
        reader.read(ids[:, :6])
        logits = reader.step(ids[:, 6])
        assert reader.timing.stepper == "cpu sequence"
        torch.testing.assert_close(logits, model(ids).logits[:, -1], rtol=1e-3, atol=1e-3)


def test_a_dtype_unpacks_everything(tmp_path: Path) -> None:
    write(model_of("mamba2"), tmp_path / "a.gguf", "Q8_0")
    model = load_as(LanguageModel, GGUFFile(tmp_path / "a.gguf"), torch.bfloat16, CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(isinstance(module, StoredLinear) for module in model.modules())


def test_fields_come_from_the_file(tmp_path: Path) -> None:
    plain = model_of("mamba2", dataclasses.replace(CONFIGS["mamba2"], layer_norm_epsilon=3e-4, conv_kernel=3))
    write(plain, tmp_path / "a.gguf", "F32", {"tokenizer.ggml.eos_token_id": 7})
    config = load_as(LanguageModel, GGUFFile(tmp_path / "a.gguf"), None, CPU).config
    assert config.layer_norm_epsilon == pytest.approx(3e-4) and config.conv_kernel == 3 and config.eos_token_id == 7
    assert config.tie_word_embeddings == plain.config.tie_word_embeddings
