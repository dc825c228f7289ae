"""Every sampling option does what its sentence says."""

from __future__ import annotations

import pytest
import torch

from anymamba.errors import ArgumentError
from anymamba.generation.sampling import Sampler, Sampling, _kept


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def kept(sampling: Sampling, *probabilities: float) -> list[bool]:
    return _kept(logits_of(*probabilities), sampling).isfinite()[0].tolist()


def test_top_k_keeps_the_k_likeliest() -> None:
    assert kept(Sampling(top_k=2), 0.1, 0.5, 0.15, 0.25) == [False, True, False, True]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert kept(Sampling(top_p=0.7), 0.1, 0.5, 0.15, 0.25) == [False, True, False, True]
    assert kept(Sampling(top_p=0.01), 0.1, 0.5, 0.15, 0.25) == [False, True, False, False]


def test_min_p_is_relative_to_the_likeliest() -> None:
    assert kept(Sampling(min_p=0.4), 0.1, 0.5, 0.15, 0.25) == [False, True, False, True]


def test_draws_follow_the_distribution() -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=0), 1, torch.device("cpu"))
    counts = torch.zeros(3)
    for _ in range(4000):
        counts[int(sampler(logits_of(0.2, 0.5, 0.3)))] += 1
    # three standard deviations of a share of 4000 draws are 0.024
    torch.testing.assert_close(counts / 4000, torch.tensor([0.2, 0.5, 0.3]), rtol=0, atol=0.024)


def test_repetition_penalty_lowers_seen_tokens_of_either_sign() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0), 1, torch.device("cpu"))
    sampler.start(torch.tensor([[0, 2]]), 3)
    assert sampler._penalised(torch.tensor([[4.0, 3.0, -1.0]])).tolist() == [[2.0, 3.0, -2.0]]
    assert int(sampler(torch.tensor([[4.0, 3.0, -1.0]]))) == 1


def test_no_repeat_ngram_bans_what_would_complete_one() -> None:
    sampler = Sampler(Sampling(no_repeat_ngram=2), 1, torch.device("cpu"))
    sampler.start(torch.tensor([[1, 2, 3, 1]]), 5)
    assert int(sampler(torch.tensor([[0.0, 0.0, 9.0, 1.0, 0.5]]))) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.5}, {"min_p": 1}, {"top_k": -2},
        {"repetition_penalty": 0}, {"seed": -1}, {"seed": 2**63},
    ],
)
def test_values_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Sampling(**wrong)
