"""The fused CPU step of several texts: each text gets the bits that it gets alone, and the cache is written back row by row."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from anymamba.generation.engine import generate
from anymamba.generation.quantize import quantize_int8
from anymamba.generation.stepper import choose_stepper, own_stepper
from anymamba.models.cache import Cache
from anymamba.models.config import Config
from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.mamba3 import Mamba3Config

SMALL = {"vocab_size": 301, "hidden_size": 40, "num_hidden_layers": 2, "eos_token_id": None}
CONFIGS = {
    "mamba": MambaConfig(**SMALL),
    "mamba with biases, odd sizes": MambaConfig(**{**SMALL, "hidden_size": 38}, use_bias=True, conv_kernel=3, state_size=5),
    "falcon_mamba": FalconMambaConfig(**SMALL, state_size=5),
    "mamba2": Mamba2Config(**SMALL, num_heads=10, head_dim=8, n_groups=2, state_size=12, time_step_limit=(0.01, 0.5)),
    "mamba3": Mamba3Config(**SMALL, head_dim=16, state_size=12, intermediate_size=50),
    "mamba3, MIMO": Mamba3Config(**SMALL, head_dim=8, n_groups=2, state_size=16, is_mimo=True, mimo_rank=3),
}
PROMPTS = [3, 8, 5, 1, 12, 9]
"""Lengths of the texts: four are one group of the kernel, six are a group and a rest."""


def make_model(config: Config) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def read(model: LanguageModel, length: int) -> Cache:
    cache = model.make_cache(1)
    model(torch.arange(length)[None] * 31 % 301, cache=cache)
    return cache


def together(caches: list[Cache]) -> Cache:
    """One cache whose rows are copies of theirs."""
    whole = caches[0].select(torch.zeros(len(caches), dtype=torch.long))
    for index, layer in enumerate(whole.layers):
        for row, cache in enumerate(caches):
            layer.conv[row], layer.ssm[row] = cache.layers[index].conv[0], cache.layers[index].ssm[0]
    return whole


def steps(model: LanguageModel, cache: Cache, first: list[int], kind: str = "fused") -> Tensor:
    """Logits (tokens, rows, vocabulary) of tokens that differ from row to row; the cache is written back."""
    stepper = choose_stepper(model, cache) if kind == "fused" else own_stepper(model, cache, "")
    assert stepper.name == ("cpu sequence" if kind == "fused" else "model"), stepper.why
    logits = [stepper.step((torch.tensor(first) + 17 * token) % 301).clone() for token in range(5)]
    stepper.write_back()
    return torch.stack(logits)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(family, dtype) for family in ("mamba", "falcon_mamba", "mamba2") for dtype in ("float32", "int8")]
    + [("mamba", "bfloat16"), ("mamba2", "float16"), ("mamba3", "float32"), ("mamba3, MIMO", "int8")],
)
def test_a_text_gets_the_same_bits_in_any_batch(family: str, dtype: str) -> None:
    model = make_model(CONFIGS[family])
    model = quantize_int8(model) if dtype == "int8" else model.to(getattr(torch, dtype))
    with torch.inference_mode():
        alone = [read(model, length) for length in PROMPTS]
        batches = {rows: together([copy.deepcopy(alone[row]) for row in rows]) for rows in ((1, 0), (5, 1, 4, 0, 3, 2))}
        single = [steps(model, cache, [row]) for row, cache in enumerate(alone)]
        for rows, cache in batches.items():
            logits = steps(model, cache, list(rows))
            for place, row in enumerate(rows):
                assert torch.equal(logits[:, place], single[row][:, 0]), f"row {row} of {rows}"
                for layer, own in zip(cache.layers, alone[row].layers):
                    assert torch.equal(layer.conv[place], own.conv[0]) and torch.equal(layer.ssm[place], own.ssm[0])


@pytest.mark.parametrize("family", CONFIGS)
def test_a_batch_equals_the_models_own_step(family: str) -> None:
    model = make_model(CONFIGS[family])
    with torch.inference_mode():
        fused = together([read(model, length) for length in PROMPTS])
        plain = fused.clone()
        first = list(range(len(PROMPTS)))
        torch.testing.assert_close(steps(model, fused, first), steps(model, plain, first, "model"), rtol=0, atol=2e-5)
    assert fused.tokens == plain.tokens
    for ours, theirs in zip(fused.layers, plain.layers):
        torch.testing.assert_close(ours.ssm, theirs.ssm, rtol=0, atol=2e-5)
        torch.testing.assert_close(ours.conv, theirs.conv, rtol=0, atol=2e-5)


def test_rows_that_have_ended_leave_the_others_alone() -> None:
    model = make_model(CONFIGS["mamba"])
    prompts = torch.randint(1, 301, (5, 9))
    whole = [generate(model, prompt[None], 12, eos=[])[0] for prompt in prompts]
    end = int(whole[2][11])  # the third new token of one row
    batch = generate(model, prompts, 12, eos=[end])
    for row, text in zip(batch, whole):
        new = text[9:].tolist()
        stop = new.index(end) + 1 if end in new else len(new)
        assert row[9 : 9 + stop].tolist() == new[:stop]
        assert set(row[9 + stop :].tolist()) <= {end}
