"""The recurrent state: pieces of any length give what the whole text gives; it can be saved, branched and spread over rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from anymamba.errors import AnymambaError
from anymamba.models.cache import Cache, read_notes
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig

IDS = torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[40], [1] * 40, [1, 2, 3, 34], [7, 1, 1, 31], [39, 1], [2, 2, 36]], ids=str)
def test_pieces_give_what_the_whole_gives(model: LanguageModel, pieces: list[int]) -> None:
    cache = model.make_cache(2)
    parts = torch.cat([model(piece, cache=cache).logits for piece in IDS.split(pieces, 1)], 1)
    assert_close(parts, model(IDS).logits, rtol=0, atol=1e-4)
    whole = model.make_cache(2)
    model(IDS, cache=whole)
    for one, other in zip(cache.layers, whole.layers):
        assert_close(one.conv, other.conv, rtol=0, atol=1e-5)
        assert_close(one.ssm, other.ssm, rtol=0, atol=1e-4)
    assert cache.tokens == whole.tokens == 40


@torch.no_grad()
def test_bfloat16_keeps_the_state_in_float32(model: LanguageModel) -> None:
    exact = model(IDS).logits
    model = model.to(torch.bfloat16)
    cache = model.make_cache(2)
    assert {layer.ssm.dtype for layer in cache.layers} == {torch.float32}
    parts = torch.cat([model(piece, cache=cache).logits for piece in IDS.split([5, 1, 33, 1], 1)], 1)
    assert ((parts.float() - exact).norm() / exact.norm()).item() < 0.05


@torch.no_grad()
def test_autocast(model: LanguageModel) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        cache = model.make_cache(2)
        parts = torch.cat([model(piece, cache=cache).logits for piece in IDS.split([5, 1, 33, 1], 1)], 1)
        whole = model(IDS).logits
    assert ((parts.float() - whole.float()).norm() / whole.float().norm()).item() < 0.05


@torch.no_grad()
def test_memory_and_addresses_do_not_change(model: LanguageModel) -> None:
    cache = model.make_cache(1)
    model(IDS[:1], cache=cache)
    size, addresses = cache.nbytes, [layer.ssm.data_ptr() for layer in cache.layers]
    for t in range(20):
        model(IDS[:1, t : t + 1], cache=cache)
    assert (cache.nbytes, [layer.ssm.data_ptr() for layer in cache.layers]) == (size, addresses)
    cache.reset()
    assert_close(model(IDS[:1], cache=cache).logits, model(IDS[:1]).logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_save_load_clone_select(model: LanguageModel, tmp_path: Path) -> None:
    cache = model.make_cache(1)
    model(IDS[:1, :30], cache=cache)
    cache.save(tmp_path / "state.safetensors", prompt="你好")
    assert read_notes(tmp_path / "state.safetensors") == {"prompt": "你好"}
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]

    many = model.make_cache(3)
    assert many.load(tmp_path / "state.safetensors") == {"prompt": "你好"}
    branch, spread = cache.clone(), cache.select(torch.tensor([0, 0]))
    expected = model(IDS[:1]).logits[:, 30:]
    assert_close(model(IDS[:1, 30:], cache=cache).logits, expected, rtol=0, atol=1e-4)
    for other, rows in ((many, 3), (branch, 1), (spread, 2)):
        assert other.tokens == 30
        got = model(IDS[:1, 30:].expand(rows, -1), cache=other).logits
        assert_close(got, expected.expand_as(got), rtol=0, atol=1e-4)


def test_states_that_do_not_fit(model: LanguageModel, tmp_path: Path) -> None:
    cache = model.make_cache(1)
    cache.save(tmp_path / "good")
    other = Cache(MambaConfig(61, 32, 5, 2), 1)
    with pytest.raises(AnymambaError, match="another model"):
        other.load(tmp_path / "good")
    shallower = dataclasses.replace(model.config, num_hidden_layers=1)
    with pytest.raises(AnymambaError, match="2"):
        Cache(shallower, 1).load(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-9])
    with pytest.raises(AnymambaError, match="cut"):
        cache.load(tmp_path / "cut")
    with pytest.raises(AnymambaError, match="good"):
        cache.load(tmp_path / "none")


@torch.no_grad()
def test_a_step_does_not_depend_on_the_other_rows(model: LanguageModel) -> None:
    both, alone = model.make_cache(2), model.make_cache(1)
    model(IDS, cache=both)
    model(IDS[1:], cache=alone)
    one, other = model(IDS[:, :1], cache=both).logits[1:], model(IDS[1:, :1], cache=alone).logits
    assert_close(one, other, rtol=0, atol=1e-5)


def test_activation_checkpointing_changes_no_number(model: LanguageModel) -> None:
    """Every block runs once more in the backward pass, and only there."""
    model.train()
    runs = []
    for block in model.backbone.layers:
        block.register_forward_pre_hook(lambda module, _: runs.append(module))
    model(IDS, labels=IDS).loss.backward()
    assert runs == list(model.backbone.layers)
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.backbone.gradient_checkpointing = True
    runs.clear()
    loss = model(IDS, labels=IDS).loss
    assert runs == list(model.backbone.layers)
    loss.backward()
    assert runs == [*model.backbone.layers, *reversed(model.backbone.layers)]
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, plain[name], rtol=0, atol=0)


def test_logits_to_keep_and_return_logits(model: LanguageModel) -> None:
    full = model(IDS).logits
    assert_close(model(IDS, logits_to_keep=3).logits, full[:, -3:])
    output = model(IDS, labels=IDS)
    assert output.logits is None
    assert_close(model(IDS, labels=IDS, return_logits=True).logits, full)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"input_ids": torch.zeros(3, dtype=torch.long)}, "input_ids"),
        ({"input_ids": torch.zeros(1, 3)}, "input_ids"),
        ({"input_ids": torch.tensor([[1, 61]])}, "61"),
        ({"input_ids": torch.tensor([[1, -1]])}, "-1"),
        ({"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 1)}, "attention_mask"),
        ({"input_ids": torch.tensor([[1, 2]]), "seq_idx": torch.ones(1, 3)}, "seq_idx"),
    ],
)
def test_wrong_arguments_are_named(arguments: Any, named: str) -> None:
    model = LanguageModel(MambaConfig(61, 24, 5, 2))
    with pytest.raises(AnymambaError, match=named):
        model(**arguments)
    with pytest.raises(AnymambaError, match="cache"):
        model(IDS, seq_idx=torch.zeros_like(IDS), cache=model.make_cache(2))
