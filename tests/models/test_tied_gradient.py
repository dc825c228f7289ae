"""The shared gradient of a tied table is autograd's sum of both, to the last bit of a fixed order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from anymamba.models import lm
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig

IDS = torch.randint(0, 40, (2, 17), generator=torch.Generator().manual_seed(0))  # with repeated ids


def gradients(model: LanguageModel, **options: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(IDS, labels=IDS, **options).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_as_autograd_adds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(MambaConfig(64, 16, 4, 2))
    for options in ({}, {"normalizer": 3.0}):
        shared = gradients(model, **options)
        with monkeypatch.context() as patch:
            patch.setattr(lm, "shares_gradient", lambda _: False)
            plain = gradients(model, **options)
        for name, gradient in plain.items():
            assert_close(shared[name], gradient, rtol=1e-5, atol=1e-8)
    assert shared["backbone.embeddings.weight"][50:].abs().max() > 0  # tokens that are only predicted against


def test_gradients_accumulate_over_micro_batches() -> None:
    model = LanguageModel(MambaConfig(64, 16, 4, 1))
    whole = gradients(model, normalizer=32.0)
    model.zero_grad()
    for row in IDS:
        model(row[None], labels=row[None], normalizer=32.0).loss.backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-7)


def test_autocast_and_frozen_tables() -> None:
    model = LanguageModel(MambaConfig(64, 16, 4, 1))
    exact = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(IDS, labels=IDS).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - exact[name]).norm() < 0.05 * exact[name].norm() + 1e-6, name
    model.zero_grad()
    model.lm_head.weight.requires_grad_(False)
    model(IDS, labels=IDS).loss.backward()
    assert model.lm_head.weight.grad is None
    assert_close(model.backbone.norm_f.weight.grad, exact["backbone.norm_f.weight"])


def test_the_gradient_of_the_table_alone_and_of_another_parameter_alone() -> None:
    model = LanguageModel(MambaConfig(64, 16, 4, 1))
    exact = gradients(model)
    (table,) = torch.autograd.grad(model(IDS, labels=IDS).loss, [model.lm_head.weight])
    assert_close(table, exact["backbone.embeddings.weight"])
    (norm,) = torch.autograd.grad(model(IDS, labels=IDS).loss, [model.backbone.norm_f.weight])
    assert_close(norm, exact["backbone.norm_f.weight"])
