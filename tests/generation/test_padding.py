"""Padding is no text: a row of a batch is chosen as the same row alone, whatever the padding's id and the penalties."""

from __future__ import annotations

import pytest
import torch

from anymamba.generation.engine import Reader, generate, steps, stream
from anymamba.generation.sampling import Sampling
from anymamba.generation.text import generate_batch
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.tokenizer import byte_tokenizer

PENALTIES = [{"repetition_penalty": 3.0}, {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2}, {"repetition_penalty": 0.5, "no_repeat_ngram": 3}]


def model_of(seed: int, vocabulary: int = 12) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(MambaConfig(vocab_size=vocabulary, hidden_size=24, num_hidden_layers=1, eos_token_id=None, initializer_range=0.5))


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("pad", [0, 5])
def test_penalties_do_not_count_padding(penalty: dict[str, float], pad: int) -> None:
    model = model_of(3).eval()
    rows = [torch.randint(0, 12, (length,), generator=torch.Generator().manual_seed(length)) for length in (3, 9, 6)]
    batch, mask = torch.full((3, 9), pad), torch.zeros(3, 9, dtype=torch.long)
    for index, row in enumerate(rows):
        batch[index, 9 - len(row) :], mask[index, 9 - len(row) :] = row, 1
    together = generate(model, batch, 8, attention_mask=mask, eos=[], **penalty)
    for index, row in enumerate(rows):
        alone = generate(model, row[None], 8, eos=[], **penalty)[0, len(row) :]
        assert torch.equal(together[index, 9:], alone), index
    # the same through stream, and with a mask that is longer than the ids, as after an earlier piece
    longer = torch.cat([torch.ones(3, 4, dtype=torch.long), mask], 1)
    streamed = torch.stack([step.ids for step in stream(model, batch, 8, attention_mask=longer, eos=[], **penalty)], 1)
    assert torch.equal(streamed, together[:, 9:])


def test_padding_with_the_end_token_does_not_forbid_or_favour_the_end() -> None:
    """The head likes the end best: a penalty on a padded end token would make the short row go on."""
    tokenizer = byte_tokenizer()
    tokenizer.pad = tokenizer.eos
    model = model_of(0, tokenizer.vocab_size).eval()
    end = tokenizer.eos_id
    assert end is not None
    with torch.no_grad():
        hidden = model.backbone(torch.tensor([tokenizer.encode("ab")]))[0, -1]
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 0.01)
        model.lm_head.weight[end] = hidden
    prompts = [tokenizer.encode(text) for text in ("ab", "a much longer text")]
    sampling = Sampling(repetition_penalty=50.0, no_repeat_ngram=1)
    together = generate_batch(Reader(model, 2), tokenizer, prompts, 4, sampling, eos=[end])
    alone = [generate_batch(Reader(model, 1), tokenizer, [prompt], 4, sampling, eos=[end])[0] for prompt in prompts]
    assert alone[0].finish == "end" and not alone[0].pieces
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.finish for one in together] == [one.finish for one in alone]
    assert [one.prompt_tokens for one in together] == [2, 18]


def test_rows_that_have_ended_are_not_counted_as_new_tokens() -> None:
    model = model_of(1).eval()
    reader = Reader(model, 2)
    prompt = torch.tensor([[1, 2], [3, 4]])
    reader.read(prompt)
    first = [int(token) for token in reader.logits.argmax(-1)]  # type: ignore[union-attr]
    assert first[0] != first[1]
    chosen = list(steps(reader, 5, Sampling(), prompt, [first[0]]))
    assert len(chosen) > 1 and reader.timing.new_tokens == 2 + sum(2 - int(step.done.sum()) for step in chosen[:-1])
