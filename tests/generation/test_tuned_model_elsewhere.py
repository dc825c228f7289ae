"""A model tuned on instructions ends its answers in transformers as it does here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from anymamba.cli import main
from anymamba.generation.chat import Chat
from anymamba.generation.engine import generate
from anymamba.generation.sampling import Sampling
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.tokenizer import byte_tokenizer, load_tokenizer
from anymamba.training.data import instruct

transformers = pytest.importorskip("transformers")

TALK = {"hi": "hello!", "你好": "你好呀", "1+1": "2"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learnt TALK by heart, from the very examples that `anymamba train --instruct` makes."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    model = LanguageModel(MambaConfig(vocab_size=tokenizer.vocab_size, hidden_size=64, num_hidden_layers=2))
    rows = []
    for question, answer in TALK.items():
        ids, learn = instruct.encode(tokenizer, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        rows.append((ids, [token if wanted else -100 for token, wanted in zip(ids, learn)]))
    longest = max(len(ids) for ids, _ in rows)
    batch = torch.tensor([ids + [257] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([wanted + [-100] * (longest - len(wanted)) for _, wanted in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(50):
        loss = model(batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    folder = tmp_path_factory.mktemp("tuned") / "model"
    hub.save(model.eval(), folder, tokenizer)
    return folder


def test_every_end_token_is_exported(tuned: Path) -> None:
    assert json.loads((tuned / "generation_config.json").read_text("utf-8"))["eos_token_id"] == [256, 261]
    assert hub.load(tuned).config.eos_token_ids == [256, 261]
    hub.save(hub.load(tuned), tuned.parent / "again")  # without a tokenizer the list stays
    assert json.loads((tuned.parent / "again" / "generation_config.json").read_text("utf-8"))["eos_token_id"] == [256, 261]


@pytest.mark.parametrize("question", TALK)
def test_transformers_gives_the_same_answer_ended(tuned: Path, question: str) -> None:
    chat = Chat(hub.load(tuned), load_tokenizer(tuned))
    pieces = list(chat.reply(question, 60, Sampling()))
    answer = "".join(piece.text for piece in pieces)
    assert answer == TALK[question] and pieces[-1].finish == "end"

    peer, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(tuned), transformers.AutoTokenizer.from_pretrained(tuned)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt")
    ids = prompt if isinstance(prompt, torch.Tensor) else prompt["input_ids"]
    new = peer.generate(ids, max_new_tokens=60, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(new, skip_special_tokens=True) == answer
    assert int(new[-1]) == tokenizer.convert_tokens_to_ids("<|end|>")


def test_our_generate_ends_where_an_answer_ends(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(tuned)
    ids = torch.tensor([tokenizer.encode(tokenizer.render_chat([{"role": "user", "content": "hi"}]), special=True)])
    text = generate(hub.load(tuned), ids, 60)[0, ids.shape[1] :].tolist()
    assert tokenizer.decode(text) == "hello!<|end|>"
    # checkpoints of earlier versions name only the end of a text: the template still tells the rest
    config = json.loads((tuned / "generation_config.json").read_text("utf-8"))
    older = tuned.parent / "older"
    hub.save(hub.load(tuned), older, tokenizer)
    (older / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 256}))
    assert hub.load(older).config.eos_token_ids == [256]
    chat = Chat(hub.load(older), load_tokenizer(older))
    assert list(chat.reply("hi", 60, Sampling()))[-1].finish == "end"
    assert main(["generate", str(older), "-p", "hi", "-m", "60", "--json"]) == 0
    assert "<|end|>" not in json.loads(capsys.readouterr().out)["results"][0]["text"]


def test_the_end_of_an_answer_is_read_from_any_template() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.end_ids == [256, 261]
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert tokenizer.end_of_turn_id == tokenizer.token_id("<|im_end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' }}{% endfor %}"
    assert tokenizer.end_ids == [256]
    for without in ("{{ raise_exception('no') }}", "{{ messages[0]['content'] }}", None):
        tokenizer.chat_template = without
        assert tokenizer.end_of_turn_id is None
