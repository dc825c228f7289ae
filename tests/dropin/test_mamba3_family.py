"""Mamba-3 as a model family against mamba_ssm's own language model class, which the drop-in has: checkpoints, loss, gradients, states."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anymamba.generation import engine
from anymamba.models import hub
from anymamba.models.lm import LanguageModel

KINDS: dict[str, dict[str, Any]] = {
    "siso": {},
    "siso-groups": {"ngroups": 2, "rope_fraction": 1.0},
    "siso-norm": {"is_outproj_norm": True},
    "mimo": {"is_mimo": True, "mimo_rank": 2},
    "mimo-norm": {"is_mimo": True, "mimo_rank": 2, "is_outproj_norm": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def pair(kind: str, folder: Path) -> tuple[Any, LanguageModel]:
    """The drop-in's model with random parameters, and ours loaded from its checkpoint."""
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.models.config_mamba import MambaConfig

    torch.manual_seed(0)
    ssm_cfg = {"layer": "Mamba3", "d_state": 8, "headdim": 8, "chunk_size": 8, **KINDS[kind]}
    config = MambaConfig(d_model=16, d_intermediate=128, n_layer=2, vocab_size=47, ssm_cfg=ssm_cfg)
    theirs = MambaLMHeadModel(config)
    with torch.no_grad():
        for parameter in theirs.parameters():  # none may keep the ones it starts from
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(folder)
    return theirs.eval(), hub.load(folder)


@every_kind
def test_logits_loss_and_gradients(kind: str, dropin: None, tmp_path: Path) -> None:
    theirs, ours = pair(kind, tmp_path)
    ids = torch.randint(47, (2, 19))
    logits = theirs(ids).logits
    torch.testing.assert_close(ours(ids).logits, logits, rtol=1e-4, atol=1e-4)
    want = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss = ours(ids, labels=ids).loss
    assert loss is not None
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    loss.backward()
    want.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        other = gradients[name.replace("backbone.embeddings", "backbone.embedding")].grad
        assert parameter.grad is not None
        error = (parameter.grad - other).abs().max() / other.abs().max()
        assert error < 1e-4, name


@every_kind
def test_parts_with_a_cache_are_the_whole(kind: str, dropin: None, tmp_path: Path) -> None:
    """A prompt, more tokens at once, then token by token."""
    ours = pair(kind, tmp_path)[1]
    ids = torch.randint(47, (2, 15))
    with torch.no_grad():
        want = ours(ids).logits
        cache = ours.make_cache(2)
        parts = [ours(part, cache=cache).logits for part in (ids[:, :6], ids[:, 6:11], *ids[:, 11:].split(1, dim=1))]
    assert all(isinstance(part, Tensor) for part in parts)
    torch.testing.assert_close(torch.cat(parts, dim=1), want, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


@every_kind
def test_documents_and_padding(kind: str, dropin: None, tmp_path: Path) -> None:
    ours = pair(kind, tmp_path)[1]
    ids = torch.randint(47, (2, 12))
    with torch.no_grad():
        packed = ours(ids, seq_idx=torch.tensor([[0] * 5 + [1] * 7, [0] * 12])).logits
        torch.testing.assert_close(packed[:1, 5:], ours(ids[:1, 5:]).logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(packed[1:], ours(ids[1:]).logits, rtol=1e-4, atol=1e-4)
        mask = torch.ones(2, 12, dtype=torch.long)
        mask[0, :4] = 0
        padded = ours(ids, attention_mask=mask).logits
        torch.testing.assert_close(padded[:1, 4:], ours(ids[:1, 4:]).logits, rtol=1e-4, atol=1e-4)


@every_kind
def test_saved_and_loaded_again(kind: str, dropin: None, tmp_path: Path) -> None:
    ours = pair(kind, tmp_path / "original")[1]
    hub.save(ours, tmp_path / "saved")
    again = hub.load(tmp_path / "saved")
    # it concerns fresh parameters only, and is written as false
    assert again.config == dataclasses.replace(ours.config, rescale_prenorm_residual=False)
    ids = torch.randint(47, (1, 9))
    torch.testing.assert_close(again(ids).logits, ours(ids).logits)


def test_generates_what_upstreams_class_generates(dropin: None, tmp_path: Path) -> None:
    theirs, ours = pair("siso", tmp_path)
    ids = torch.randint(47, (1, 5))
    want = theirs.generate(ids, max_length=13)
    assert torch.equal(engine.generate(ours, ids, 8), want)
