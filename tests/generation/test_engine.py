"""Generation equals the model's own parallel pass, whatever path a step takes; memory and state stay constant."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch

from anymamba.errors import ArgumentError
from anymamba.generation import saved_state
from anymamba.generation.engine import Reader, generate, steps, stream
from anymamba.generation.quantize import quantize_int8
from anymamba.generation.sampling import Sampling
from anymamba.generation.stepper import choose_stepper, own_stepper
from anymamba.models.config import Config
from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.mamba3 import Mamba3Config

SMALL = {"vocab_size": 301, "hidden_size": 40, "num_hidden_layers": 2, "eos_token_id": None}
CONFIGS = {
    "mamba": MambaConfig(**SMALL),
    "mamba with biases, odd sizes": MambaConfig(
        **{**SMALL, "hidden_size": 38}, use_bias=True, conv_kernel=3, state_size=5
    ),
    "falcon_mamba": FalconMambaConfig(**SMALL, state_size=5),
    "mamba2": Mamba2Config(**SMALL, num_heads=10, head_dim=8, n_groups=2, state_size=12),
    "mamba2, dt_limit": Mamba2Config(
        **SMALL, num_heads=5, head_dim=16, n_groups=1, state_size=9, time_step_limit=(0.01, 0.05)
    ),
    "mamba3": Mamba3Config(**SMALL, head_dim=16, state_size=12, intermediate_size=50),
    "mamba3, MIMO": Mamba3Config(
        **SMALL, head_dim=8, n_groups=2, state_size=16, is_mimo=True, mimo_rank=3, is_outproj_norm=True, rope_fraction=1.0,
        a_activation="softplus",
    ),
}


def make_model(config: Config) -> LanguageModel:
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def without_whole_turns(state: torch.Tensor, model: LanguageModel) -> torch.Tensor:
    """Mamba-3's states end in angles: a little below 0 is the same as a little below a whole turn."""
    if not isinstance(model.config, Mamba3Config):
        return state
    memory = model.config.head_dim * model.config.state_size
    return torch.cat([state[..., :memory], state[..., memory:].sin(), state[..., memory:].cos()], -1)


@pytest.fixture(params=CONFIGS, ids=str)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return make_model(CONFIGS[request.param])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "int8"], ids=str)
def test_fused_cpu_step_equals_the_models_step(model: LanguageModel, dtype: torch.dtype | str) -> None:
    model = quantize_int8(model) if isinstance(dtype, str) else model.to(dtype)
    # the fused step keeps vectors in float32, so against bf16 activations it differs by their rounding
    tolerance = 3e-2 if dtype == torch.bfloat16 else 2e-5
    with torch.inference_mode():
        ours, theirs = model.make_cache(1), model.make_cache(1)
        prompt = torch.randint(0, 301, (1, 7))
        model(prompt, cache=ours)
        model(prompt, cache=theirs)
        fused, plain = choose_stepper(model, ours), own_stepper(model, theirs, "")
        assert fused.name == "cpu sequence", fused.why
        for token in range(12):
            ids = torch.tensor([token * 17 % 301])
            torch.testing.assert_close(fused.step(ids), plain.step(ids), rtol=0, atol=tolerance)
        fused.write_back()
    assert ours.tokens == theirs.tokens == 19
    for mine, other in zip(ours.layers, theirs.layers):
        torch.testing.assert_close(*(without_whole_turns(state.ssm, model) for state in (mine, other)), rtol=0, atol=tolerance)
        torch.testing.assert_close(mine.conv.float(), other.conv.float(), rtol=0, atol=tolerance)


def test_greedy_tokens_are_those_of_the_parallel_pass(model: LanguageModel) -> None:
    prompt = torch.randint(0, 301, (1, 9))
    text = generate(model, prompt, 20)
    with torch.inference_mode():
        logits = model(text[:, :-1]).logits
    assert text.shape == (1, 29)
    assert torch.equal(logits[0, 8:].argmax(-1), text[0, 9:])


def test_rows_of_a_padded_batch_equal_single_texts(model: LanguageModel) -> None:
    first, second = torch.randint(1, 301, (1, 5)), torch.randint(1, 301, (1, 11))
    padded = torch.cat([torch.zeros(1, 6, dtype=torch.long), first], 1)
    batch, mask = torch.cat([padded, second]), torch.ones(2, 11, dtype=torch.long)
    mask[0, :6] = 0
    together = generate(model, batch, 8, attention_mask=mask)
    assert torch.equal(together[0, 11:], generate(model, first, 8)[0, 5:])
    assert torch.equal(together[1, 11:], generate(model, second, 8)[0, 11:])


def test_an_ended_row_repeats_its_end_and_all_ended_stops() -> None:
    model = make_model(CONFIGS["mamba"])
    prompt = torch.randint(0, 301, (1, 9))
    third = int(generate(model, prompt, 3)[0, -1])
    text = generate(model, prompt, 50, eos=[third])
    assert text.shape[1] <= 12 and int(text[0, -1]) == third


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(CONFIGS["mamba"])
    prompt = torch.randint(0, 301, (2, 50))
    whole = Reader(model, rows=2).read(prompt)
    monkeypatch.setattr("anymamba.generation.engine.PREFILL_TOKENS", 16)
    torch.testing.assert_close(Reader(model, rows=2).read(prompt), whole, rtol=1e-4, atol=1e-5)


def test_saved_state_continues_the_same_text(model: LanguageModel, tmp_path: Path) -> None:
    prompt = torch.randint(0, 301, (1, 9))
    whole = generate(model, prompt, 12)
    reader = Reader(model)
    reader.read(prompt)
    half = [int(step.ids[0]) for step in steps(reader, 5, Sampling())]
    saved_state.save(tmp_path / "state", reader, half[-1:])
    cache, pending = saved_state.load(tmp_path / "state", model)
    rest = generate(model, torch.tensor([pending]), 7, cache=cache)
    assert half[:-1] + rest[0].tolist() == whole[0, 9:].tolist()


def test_seed_fixes_the_tokens_and_no_seed_varies_them() -> None:
    model = make_model(CONFIGS["mamba2"])
    prompt = torch.randint(0, 301, (1, 4))
    options = {"temperature": 2.0, "top_k": 100}
    assert torch.equal(generate(model, prompt, 30, seed=3, **options), generate(model, prompt, 30, seed=3, **options))
    assert not torch.equal(
        generate(model, prompt, 30, seed=3, **options), generate(model, prompt, 30, seed=4, **options)
    )


def test_memory_does_not_grow_with_the_text() -> None:
    model = make_model(CONFIGS["mamba"])

    def peak(tokens: int) -> int:
        tracemalloc.start()
        for _ in stream(
            model, torch.zeros(1, 3, dtype=torch.long), tokens, temperature=1.0, seed=0, repetition_penalty=1.1
        ):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(50)
    assert peak(1500) < peak(100) + 100_000  # 1400 more Steps alone would be over half a megabyte


def test_measured_confidence_is_of_the_models_distribution() -> None:
    model = make_model(CONFIGS["mamba"])
    prompt = torch.randint(0, 301, (1, 9))
    step = next(stream(model, prompt, 1, measure=True))
    with torch.inference_mode():
        expected = model(prompt).logits[0, -1].log_softmax(-1)
    assert step.log_probability is not None and step.entropy is not None
    torch.testing.assert_close(step.log_probability[0], expected[step.ids[0]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(step.entropy[0], -(expected.exp() * expected).sum(), rtol=1e-4, atol=1e-4)


def test_an_empty_prompt_is_refused() -> None:
    model = make_model(CONFIGS["mamba"])
    with pytest.raises(ArgumentError, match="at least one token"):
        generate(model, torch.empty(1, 0, dtype=torch.long), 3)
