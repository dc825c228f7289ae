"""Documents packed into one row with seq_idx do not see each other: outputs, losses and gradients are those of each alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from anymamba.models.lm import LanguageModel

LENGTHS = [[5, 1, 1, 20, 13], [40], [1, 39]]
IDS = torch.randint(0, 61, (3, 40), generator=torch.Generator().manual_seed(0))
SEQ_IDX = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in LENGTHS])


def pieces() -> list[Tensor]:
    return [piece for row, lengths in zip(IDS, LENGTHS) for piece in row.split(lengths)]


@torch.no_grad()
def test_logits(model: LanguageModel) -> None:
    got = model(IDS, seq_idx=SEQ_IDX).logits.flatten(0, 1)
    expected = torch.cat([model(piece[None]).logits[0] for piece in pieces()])
    assert_close(got, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_with_padding(model: LanguageModel) -> None:
    mask = torch.ones_like(IDS)
    mask[1:, -6:] = 0
    got = model(IDS, seq_idx=SEQ_IDX, attention_mask=mask).logits
    whole = model(IDS, seq_idx=SEQ_IDX).logits
    assert_close(got[0], whole[0], rtol=0, atol=1e-4)
    assert_close(got[1:, :-6], whole[1:, :-6], rtol=0, atol=1e-4)


def test_loss_and_gradients(model: LanguageModel) -> None:
    longer = [piece for piece in pieces() if len(piece) > 1]  # a document of one token predicts nothing
    expected = sum(model(piece[None], labels=piece[None], normalizer=1.0).loss for piece in longer)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    loss = model(IDS, labels=IDS, seq_idx=SEQ_IDX, normalizer=1.0).loss
    assert_close(loss, expected, rtol=1e-5, atol=1e-3)
    for (name, _), got, want in zip(
        model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), wanted
    ):
        assert (got - want).norm() <= 1e-4 * want.norm() + 1e-6, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_forgets_too(model: LanguageModel, dtype: torch.dtype) -> None:
    """As near to float32 with borders as without: an old state that came through would be an error of order one."""
    exact = model(IDS, seq_idx=SEQ_IDX).logits
    rounded = model.to(dtype)(IDS, seq_idx=SEQ_IDX).logits.float()
    assert ((rounded - exact).norm() / exact.norm()).item() < 0.06


def test_ids_need_not_be_consecutive(model: LanguageModel) -> None:
    with torch.no_grad():
        same = model(IDS, seq_idx=SEQ_IDX).logits
        assert_close(model(IDS, seq_idx=1000 - 7 * SEQ_IDX).logits, same, rtol=0, atol=1e-5)
