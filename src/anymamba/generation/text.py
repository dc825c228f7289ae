"""Text in, text out: tokens of a generation as the characters that may be shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anymamba.errors import AnymambaError
from anymamba.generation.detokenize import StopStrings, StreamingDetokenizer
from anymamba.generation.engine import Reader, steps
from anymamba.generation.sampling import Sampling
from anymamba.language import say
from anymamba.models.tokenizer import Tokenizer


@dataclass
class Piece:
    """text: what may be shown now (whole characters). probability: of the token that completed it; entropy: of the choice, in
    bits; None unless measured. finish: why the text ended ("end", "stop", "length"), in the last piece only."""

    text: str
    token: int | None = None
    probability: float | None = None
    entropy: float | None = None
    finish: str | None = None


def encode_prompt(tokenizer: Tokenizer, prompt: str, special: bool = False) -> list[int]:
    """The ids of a prompt; an empty prompt starts from the model's beginning-of-text token.

    Raises AnymambaError when there is nothing to start from."""
    ids = tokenizer.encode(prompt, special=special)
    if ids:
        return ids
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is None:
        raise AnymambaError(
            "usage",
            say(
                "the prompt is empty and the tokenizer has no token that begins a text",
                "提示为空，且分词器没有文本起始符",
            ),
            fix=say("give a prompt with -p", "请用 -p 给出提示"),
        )
    return [start]


def pieces(
    reader: Reader,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    eos: Sequence[int] = (),
    measure: bool = False,
) -> Iterator[Piece]:
    """Streams one text; ``reader`` has read the prompt. The end token and everything from a stop string on are not shown."""
    detokenizer, stops = StreamingDetokenizer(tokenizer.decode), StopStrings(stop)
    finish = "length"
    for step in steps(
        reader, max_new_tokens, sampling, torch.tensor([list(prompt)]).to(reader.model.device), list(eos), measure
    ):
        token = int(step.ids[0])
        probability = entropy = None
        if step.log_probability is not None and step.entropy is not None:
            probability = math.exp(float(step.log_probability[0]))
            entropy = float(step.entropy[0]) / math.log(2)
        if token in eos:
            finish = "end"
            break
        text = stops.add(detokenizer.add(token))
        yield Piece(text, token, probability, entropy)
        if stops.found is not None:
            finish = "stop"
            break
    rest = "" if stops.found is not None else stops.add(detokenizer.finish()) + stops.finish()
    yield Piece(rest, finish=finish)


def generate_batch(
    reader: Reader,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    eos: Sequence[int] = (),
) -> list[str]:
    """Continues several prompts at once, padded on the left; returns each one's new text."""
    input_ids, mask = left_padded(prompts, tokenizer.pad_id or 0)
    device = reader.model.device
    reader.read(input_ids.to(device), mask.to(device))
    rows = [(StreamingDetokenizer(tokenizer.decode), StopStrings(stop), [""]) for _ in prompts]
    ended = [False] * len(rows)
    for step in steps(reader, max_new_tokens, sampling, input_ids.to(device), list(eos)):
        for index, (token, (detokenizer, stops, shown)) in enumerate(zip(step.ids.tolist(), rows)):
            if ended[index]:
                continue
            if token in eos:
                ended[index] = True
            else:
                shown.append(stops.add(detokenizer.add(token)))
                ended[index] = stops.found is not None
        if all(ended):
            break
    for detokenizer, stops, shown in rows:
        if stops.found is None:
            shown.append(stops.add(detokenizer.finish()) + stops.finish())
    return ["".join(shown) for _, _, shown in rows]


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """ids and attention mask, both (rows, longest)."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
