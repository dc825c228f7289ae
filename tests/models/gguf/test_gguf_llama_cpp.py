"""Both directions beside the real llama.cpp: it loads what we write, we read what it reads, and both compute the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models.gguf.files import CONFIGS, model_of
from tests.models.gguf.llama_cpp_peer import LlamaCpp

from anymamba.generation.engine import generate
from anymamba.models.gguf.file import GGUFFile
from anymamba.models.gguf.load import load, load_as
from anymamba.models.gguf.vocabulary import tokenizer_of
from anymamba.models.gguf.write import write
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.tokenizer import byte_tokenizer

CPU = torch.device("cpu")
ROUNDING = {"F32": 1e-5, "F16": 1e-2, "Q8_0": 6e-2, "Q4_0": 6e-2}
"""How far llama.cpp's logits may be from ours, of their norm: it rounds activations to the type of the weights, to eight bits for Q4_0."""


@pytest.mark.parametrize("kind", ROUNDING)
@pytest.mark.parametrize("family", CONFIGS)
def test_logits_of_a_file_that_we_wrote(family: str, kind: str, tmp_path: Path) -> None:
    source = model_of(family)
    write(source, source.state_dict(), None, tmp_path / "a.gguf", kind)
    model = load_as(LanguageModel, GGUFFile(tmp_path / "a.gguf"), None, CPU)
    ids = torch.randint(96, (1, 40))
    ours, theirs = model(ids).logits[0, -1], LlamaCpp(tmp_path / "a.gguf").read(ids[0].tolist())
    assert (ours - theirs).norm() < ROUNDING[kind] * theirs.norm()


def test_texts_are_cut_into_the_same_tokens(tmp_path: Path) -> None:
    source = model_of("mamba", MambaConfig(vocab_size=264, hidden_size=32, num_hidden_layers=1))
    write(source, source.state_dict(), byte_tokenizer(), tmp_path / "a.gguf", "F16")
    peer, own = LlamaCpp(tmp_path / "a.gguf"), tokenizer_of(GGUFFile(tmp_path / "a.gguf"))
    for text in ("Hello world, it's 2026!\n\n  x\ty", "你好 🙂 é", "<|user|>hi<|end|>", " "):
        for special in (False, True):
            ids = byte_tokenizer().encode(text, special)
            assert ids == own.encode(text, special) == peer.encode(text, special)
    assert own.chat_template == byte_tokenizer().chat_template and own.eos == byte_tokenizer().eos


def test_greedy_text_of_a_trained_model(tmp_path: Path) -> None:
    """100 tokens of a Q8_0 file of a model that knows a text by heart: its choices are further apart than llama.cpp's rounding of
    activations to eight bits, which ours does not share."""
    tokenizer = byte_tokenizer()
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text("utf-8")[:1500]
    ids = torch.tensor(tokenizer.encode(text))
    torch.manual_seed(0)
    model = LanguageModel(MambaConfig(vocab_size=264, hidden_size=96, num_hidden_layers=2))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(150):
        starts = torch.randint(len(ids) - 129, (8,))
        rows = torch.stack([ids[start : start + 129] for start in starts])
        optimizer.zero_grad()
        loss = model(rows[:, :-1], targets=rows[:, 1:]).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.7, "it has learnt nothing"
    write(model, model.state_dict(), tokenizer, tmp_path / "a.gguf", "Q8_0")
    read, words = load(LanguageModel, tmp_path / "a.gguf", None, CPU)
    assert words is not None
    prompt = words.encode("Every command works on ")
    ours = generate(read.requires_grad_(False), torch.tensor([prompt]), 100, eos=[])[0, len(prompt) :].tolist()
    assert ours == LlamaCpp(tmp_path / "a.gguf").greedy(prompt, 100)
