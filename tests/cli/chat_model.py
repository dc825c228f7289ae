"""A checkpoint for the tests of `chat` and the terminal: quick, and its answers are long, so that they can be interrupted."""

from __future__ import annotations

from pathlib import Path

import torch

from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.tokenizer import byte_tokenizer


def save(folder: Path, always: int | None = None) -> str:
    """always: the byte that it writes whatever it reads; by default it writes all kinds of bytes and no special token."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(1)
    sizes = {"vocab_size": tokenizer.vocab_size, "hidden_size": 32, "num_hidden_layers": 2}
    model = LanguageModel(MambaConfig(**sizes, initializer_range=0.3, tie_word_embeddings=False))
    with torch.no_grad():
        model.lm_head.weight[256:] = 0  # never the largest of so many
        if always is not None:
            model.backbone.embeddings.weight.fill_(1)
            for block in model.backbone.layers:
                block.mixer.out_proj.weight.zero_()
            model.lm_head.weight.zero_()
            model.lm_head.weight[always] = 1
    hub.save(model, folder, tokenizer)
    return str(folder)
