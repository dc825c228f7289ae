"""Our models against transformers' on checkpoints that transformers made: logits, steps, padding, loss, gradients, both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close

from anymamba.models import hub
from anymamba.models.lm import LanguageModel

LENGTH = 21
CLOSE = {"rtol": 0.0, "atol": 1e-4}

PEER_IS_WRONG = "transformers masks before in_proj, whose bias fills the padding again; ours is compared with the text alone"


def ids(rows: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, 53, (rows, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def test_logits(pair: tuple[Any, LanguageModel]) -> None:
    peer, model = pair
    for length in (1, 2, 3, LENGTH):
        assert_close(model(ids(2, length)).logits, peer(ids(2, length), use_cache=False).logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_with_padding(pair: tuple[Any, LanguageModel], side: str) -> None:
    peer, model = pair
    if side == "left" and model.config.use_bias:
        pytest.skip(PEER_IS_WRONG)
    mask = torch.ones_like(ids())
    mask[0, slice(0, 6) if side == "left" else slice(-6, None)] = 0
    assert_close(
        model(ids(), attention_mask=mask).logits, peer(ids(), attention_mask=mask, use_cache=False).logits, **CLOSE
    )


@torch.no_grad()
def test_left_padding_changes_nothing_for_the_text(pair: tuple[Any, LanguageModel]) -> None:
    _, model = pair
    mask = torch.ones_like(ids())
    mask[:, :7] = 0
    padded = model(ids(), attention_mask=mask).logits[:, 7:]
    assert_close(padded, model(ids()[:, 7:]).logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_prefill_and_steps(pair: tuple[Any, LanguageModel], padded: bool) -> None:
    peer, model = pair
    if padded and model.config.use_bias:
        pytest.skip(PEER_IS_WRONG)
    mask = torch.ones_like(ids())
    if padded:
        mask[1, :4] = 0
    cache = model.make_cache(2)
    given = peer(ids()[:, :9], attention_mask=mask[:, :9], use_cache=True)
    got = model(ids()[:, :9], attention_mask=mask[:, :9], cache=cache)
    assert_close(got.logits, given.logits, **CLOSE)
    for t in range(9, LENGTH):
        given = peer(ids()[:, t : t + 1], cache_params=given.cache_params, use_cache=True)
        assert_close(model(ids()[:, t : t + 1], cache=cache).logits, given.logits, **CLOSE)
    assert cache.tokens == LENGTH


def test_loss_and_gradients(pair: tuple[Any, LanguageModel]) -> None:
    peer, model = pair
    labels = ids().clone()
    labels[0, 3:9] = -100
    peer.train()
    model.train()
    peer.zero_grad()
    expected = peer(ids(), labels=labels, use_cache=False).loss
    expected.backward()
    loss = model(ids(), labels=labels).loss
    loss.backward()
    assert_close(loss, expected, **CLOSE)
    gradients = {name: parameter.grad for name, parameter in peer.named_parameters()}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        scale = max(1.0, gradients[name].abs().max().item())
        assert_close(
            parameter.grad / scale, gradients[name] / scale, **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )


@torch.no_grad()
def test_transformers_loads_ours(pair: tuple[Any, LanguageModel], tmp_path: Path) -> None:
    peer, model = pair
    hub.save(model, tmp_path / "ours")
    again, notes = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(peer)
    assert not notes["missing_keys"] and not notes["unexpected_keys"] and not notes["mismatched_keys"]
    assert_close(again.eval()(ids()).logits, peer(ids()).logits, rtol=0, atol=0)
    assert again.generation_config.eos_token_id == peer.config.eos_token_id


@torch.no_grad()
def test_bfloat16_stays_near_float32(pair: tuple[Any, LanguageModel]) -> None:
    peer, model = pair
    exact = model(ids()).logits
    rounded = model.to(torch.bfloat16)(ids()).logits.float()
    assert ((rounded - exact).norm() / exact.norm()).item() < 0.05
