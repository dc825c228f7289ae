"""What the model writes on the way: a few hundred tokens after each stretch of training."""

from __future__ import annotations

from typing import Any

import torch

from anymamba.generation import engine
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer

TOKENS = 200


def write_sample(model: LanguageModel, tokenizer: Tokenizer, prompt: str, seed: int, chat: bool, tokens: int = TOKENS) -> str:
    """Prompt and continuation. Training goes on as if it had not been called: the global random state is not touched.

    chat: the prompt is a question, and the greedy answer is what matters; else the text is sampled at temperature 0.8.
    """
    if chat and prompt:
        ids = tokenizer.encode(tokenizer.render_chat([{"role": "user", "content": prompt}]), special=True)
    else:
        ids = tokenizer.encode(prompt)
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if first is not None and ids[:1] != [first]:
        ids = [first, *ids]
    sampling: dict[str, Any] = {} if chat else {"temperature": 0.8, "top_p": 0.95, "seed": seed}
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            prompt_ids = torch.tensor([ids or [0]], device=model.device)
            written = engine.generate(model, prompt_ids, tokens, **sampling)[0, prompt_ids.shape[1] :].tolist()
    finally:
        model.train(training)
    return prompt + tokenizer.decode(written, skip_special=True)
