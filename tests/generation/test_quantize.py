"""Weight-only int8: a quantized model reads text with a cache and without one, and is close to what it was made from."""

from __future__ import annotations

import copy

import pytest
import torch

from anymamba.generation.quantize import QuantizedLinear, quantize_int8
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config

CONFIGS = {
    "mamba": MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2),
    "mamba2": Mamba2Config(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_heads=4, head_dim=16, state_size=16, n_groups=1),
}


def test_a_row_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(5, 40)
    steps = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((QuantizedLinear(weight, None).dequantized() - weight).abs() <= 0.5001 * steps).all()


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_without_a_cache_are_those_with_one(family: str) -> None:
    torch.manual_seed(0)
    whole = LanguageModel(CONFIGS[family]).requires_grad_(False)
    model = quantize_int8(copy.deepcopy(whole))
    ids = torch.randint(64, (2, 9))
    logits = model(ids).logits
    torch.testing.assert_close(model(ids, cache=model.make_cache(2)).logits, logits, rtol=1e-4, atol=1e-5)
    assert (logits - whole(ids).logits).norm() < 0.05 * logits.norm()
