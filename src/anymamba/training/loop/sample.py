"""What the model writes on the way: a few hundred tokens after each stretch of training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from anymamba.generation import engine
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer

TOKENS = 200


def write_sample(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    seed: int,
    chat: bool,
    tokens: int = TOKENS,
    question: Sequence[int] = (),
    seconds: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
) -> str:
    """Prompt and continuation. Training goes on as if it had not been called: the global random state is not touched.

    chat: the prompt is a question, and the greedy answer is what matters; else the text is sampled at temperature 0.8.
    question: ids that ask it in full, template and all, where no prompt is named. seconds: time after which the text ends; so it
    does when ``stop``, asked at every token, says so.
    """
    begin = time.perf_counter()
    if chat and prompt:
        ids = tokenizer.encode(tokenizer.render_chat([{"role": "user", "content": prompt}]), special=True)
    elif chat:
        ids = list(question)
        prompt = tokenizer.decode(ids, skip_special=True) + "\n" if ids else ""
    else:
        ids = tokenizer.encode(prompt)
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if first is not None and ids[:1] != [first]:
        ids = [first, *ids]
    sampling: dict[str, Any] = {} if chat else {"temperature": 0.8, "top_p": 0.95, "seed": seed}
    written: list[int] = []
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            for step in engine.stream(model, torch.tensor([ids or [0]], device=model.device), tokens, **sampling):
                written.append(int(step.ids[0]))
                if stop() or time.perf_counter() - begin > seconds:
                    break
    finally:
        model.train(training)
    return prompt + tokenizer.decode(written, skip_special=True)
