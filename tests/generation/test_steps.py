"""Tokens that are looked at together are those that are looked at one by one, and choosing them never waits for the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from anymamba.generation import steps as module
from anymamba.generation.engine import Reader
from anymamba.generation.sampling import NGRAM_WINDOW, Sampler, Sampling
from anymamba.generation.steps import Step, steps
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig

WAYS = {
    "greedy": Sampling(),
    "seeded": Sampling(temperature=1.5, top_k=40, top_p=0.9, min_p=0.01, seed=3),
    "penalties": Sampling(temperature=1.0, repetition_penalty=1.3, no_repeat_ngram=2, seed=5),
    "greedy without repetition": Sampling(no_repeat_ngram=3),
}


def small_model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, eos_token_id=None)).eval()


def written(sampling: Sampling, rows: int, limit: int, eos: list[int], ahead: int) -> tuple[list[Step], Reader]:
    reader = Reader(small_model(), rows)
    prompt = torch.arange(rows * 5).reshape(rows, 5) * 7 % 61
    mask = torch.ones(rows, 5, dtype=torch.long)
    mask[0, :2] = 0
    reader.read(prompt, mask)
    return list(steps(reader, limit, sampling, prompt, eos, True, mask, 3, ahead)), reader


@pytest.mark.parametrize("ahead", [1, 4, 16])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_looking_later_changes_no_token(way: str, rows: int, ahead: int) -> None:
    free, _ = written(WAYS[way], rows, 30, [], 0)
    ends = {"no end": [], "an early end": [int(free[6].ids[0])], "ends of all rows": sorted({int(x) for x in free[9].ids})}
    for (name, eos), limit in itertools.product(ends.items(), (1, 2, 17, 30)):
        want, slow = written(WAYS[way], rows, limit, eos, 0)
        got, fast = written(WAYS[way], rows, limit, eos, ahead)
        assert [step.ids.tolist() for step in got] == [step.ids.tolist() for step in want], (name, limit)
        assert [step.done.tolist() for step in got] == [step.done.tolist() for step in want], (name, limit)
        for one, other in zip(got, want):
            for field in ("log_probability", "entropy", "top_ids", "top_log_probabilities"):
                assert torch.equal(getattr(one, field), getattr(other, field))
        assert fast.timing.new_tokens == slow.timing.new_tokens
        if not eos:
            assert fast.cache.tokens == slow.cache.tokens


def test_the_host_looks_at_tokens_while_the_next_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Watched(module._Block):
        def steps(self) -> Iterator[Any]:  # type: ignore[no-untyped-def]
            events.append(f"looks at {self._size}")
            yield from super().steps()

    class Counting(Reader):
        def step(self, ids: Tensor) -> Tensor:
            events.append("reads")
            return super().step(ids)

    monkeypatch.setattr(module, "_Block", Watched)
    reader = Counting(small_model(), 1)
    reader.read(torch.tensor([[1, 2, 3]]))
    assert len(list(steps(reader, 41, Sampling(), ahead=8))) == 41
    looks = [event for event in events if event != "reads"]
    assert looks == ["looks at 1"] + ["looks at 8"] * 5
    assert events[0] == "looks at 1"  # the first token is shown before the next is read
    for number, place in enumerate(place for place, event in enumerate(events) if event == "looks at 8"):
        assert events[:place].count("reads") == min(8 * (number + 2), 40)


class _Meta(Reader):
    """A reader on a device whose values cannot be looked at: item, tolist, bool and nonzero raise there."""

    def __init__(self, rows: int) -> None:
        super().__init__(small_model(), rows)
        self.logits = torch.empty(rows, 61, device="meta")

    def step(self, ids: Tensor) -> Tensor:
        assert ids.device.type == "meta" and self.logits is not None
        return self.logits


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_choosing_never_waits_for_the_device(way: str, rows: int) -> None:
    options = {name: getattr(WAYS[way], name) for name in WAYS[way].__dataclass_fields__ if name != "seed"}
    prompt, mask = torch.zeros(rows, 5, dtype=torch.long, device="meta"), torch.ones(rows, 5, device="meta")
    choosing = module._Choosing(_Meta(rows), Sampling(**options), prompt, [4, 5], True, mask, 3)
    for _ in range(4):
        step = choosing()
    assert step.ids.shape == (rows,) and step.ids.device.type == "meta"
    with pytest.raises(RuntimeError):
        bool(step.done.all())


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_no_repeat_ngram_bans_what_would_complete_one(n: int) -> None:
    def continuations(tokens: list[int]) -> set[int]:
        tail = tokens[len(tokens) - n + 1 :]
        return {tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tokens[i : i + n - 1] == tail}

    torch.manual_seed(n)
    sampler = Sampler(Sampling(no_repeat_ngram=n), 2, torch.device("cpu"))
    prompt, mask = torch.randint(0, 4, (2, 9)), torch.tensor([[1] * 9, [0, 0, 1, 1, 0, 1, 0, 1, 1]])
    sampler.start(prompt, 4, mask)
    texts = [[int(token) for token, counts in zip(row, real) if counts] for row, real in zip(prompt, mask)]
    for _ in range(40):
        logits = sampler._banned(torch.zeros(2, 4))
        for row, text in enumerate(texts):
            assert {token for token in range(4) if logits[row, token] == -torch.inf} == continuations(text)
        new = torch.randint(0, 4, (2, 1))
        sampler.saw(new)
        for text, token in zip(texts, new[:, 0].tolist()):
            text.append(token)
    sampler.saw(torch.zeros(2, NGRAM_WINDOW, dtype=torch.long))
    assert sampler._recent.shape[1] == NGRAM_WINDOW
