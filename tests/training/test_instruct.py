"""Stage 2: which tokens are trained, which records are refused, and that a format is learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import tiny_model

from anymamba.errors import AnymambaError
from anymamba.generation import engine
from anymamba.models import hub
from anymamba.models.tokenizer import byte_tokenizer, load_tokenizer
from anymamba.training.data import corpus, instruct
from anymamba.training.data.skips import Skips
from anymamba.training.run.setup import grow_vocabulary


def test_only_answers_and_their_ends_are_trained() -> None:
    tokenizer = byte_tokenizer()
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "eins"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "zwei"},
    ]
    ids, learn = instruct.encode(tokenizer, messages)
    end = tokenizer.token_id("<|end|>")
    trained = [token for token, on in zip(ids, learn) if on]
    assert trained == [*b"eins", end, *b"zwei", end]
    assert ids[0] == tokenizer.bos_id and ids == tokenizer.encode(tokenizer.render_chat(messages, False), special=True)


def test_a_template_of_another_model_is_used_as_it_is() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    ids, learn = instruct.encode(tokenizer, [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
    assert [token for token, on in zip(ids, learn) if on] == [ord("a"), tokenizer.eos_id]


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(AnymambaError, match="rewrites earlier turns"):
        instruct.encode(tokenizer, [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"prompt": "q"}, "has no field 'response'"),
        ({"prompt": "q", "response": " "}, "no answer"),
        ({"prompt": "", "response": "a"}, "prompt is empty"),
        ({"prompt": 3, "response": "a"}, "is no text .int"),
        ({"messages": []}, "not a list"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no answer"),
        ({"messages": [{"role": "robot", "content": "q"}]}, "role 'robot'"),
        ({"messages": [{"role": "user"}]}, "no text 'content'"),
    ],
)
def test_bad_records_say_what_is_wrong(record: dict[str, Any], says: str) -> None:
    with pytest.raises(instruct.BadRecordError, match=says):
        instruct.messages_of(record)


QA = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "q", "response": "a"}, QA),
        ({"instruction": "q", "input": "", "output": "a"}, QA),
        ({"instruction": "q", "output": "a"}, QA),
        ({"instruction": "q", "input": "i", "output": "a"}, [{"role": "user", "content": "q\n\ni"}, QA[1]]),
        ({"instruction": "q", "context": "i", "response": "a", "category": "qa"}, [{"role": "user", "content": "q\n\ni"}, QA[1]]),
        ({"instruction": "q", "input": "", "output": "a", "history": [["x", "y"]], "system": "s"},
         [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, *QA]),
        ({"question": "q", "answer": "a"}, QA),
        ({"prompt": "q", "completion": "a"}, QA),
        ({"prompt": QA[:1], "completion": QA[1:]}, QA),
        ({"messages": QA}, QA),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, QA[1]]}, QA),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, QA),
        ({"id": "x1", "conversations": [{"from": "gpt", "value": "hello"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
          {"from": "human", "value": "more?"}]}, QA),
        ({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
         [{"role": "system", "content": "s"}, *QA]),
        ({"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
         [{"role": "system", "content": "s"}, *QA]),
        ({"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, QA),
    ],
)  # fmt: skip
def test_the_usual_forms_of_records_are_understood(record: dict[str, Any], expected: list[dict[str, str]]) -> None:
    assert instruct.messages_of(record) == expected


def test_an_array_of_alpaca_and_a_csv_are_read(tmp_path: Path) -> None:
    (tmp_path / "alpaca.json").write_text(json.dumps([{"instruction": "q", "input": "", "output": "a"}] * 3, indent=2))
    (tmp_path / "b.csv").write_text("instruction,output\nq,a\nq,\n")
    (tmp_path / "notes.txt").write_text("not for stage 2")
    skips = Skips()
    read = list(instruct.conversations([str(tmp_path)], skips))
    assert [messages for _, messages in read] == [QA] * 4 and skips.count == 1
    assert f"1 the prompt has no answer: {tmp_path / 'b.csv'}:3" in skips.summary()


def test_bad_records_in_a_file_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = {"prompt": "q", "response": "a" * 500}
    records = [{"prompt": "q", "response": "a"}, {"prompt": "q"}, long, {"messages": [{"role": "user", "content": "?"}]}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + "{\n")
    skips = Skips()
    instruct.prepare([str(path)], byte_tokenizer(), tmp_path / "data", 0.0, 0, skips, longest=100)
    assert (skips.total, skips.count) == (5, 4)
    made = corpus.open_corpus(tmp_path / "data")
    assert len(made.train.starts) == 1 and made.train.learn is not None
    assert f"1 has no field 'response': {path}:2 (it has: prompt)" in made.notes[1]
    assert f"1 more than 100 tokens (--length): {path}:3" in made.notes[1]


def test_new_tokens_get_rows_and_leave_old_answers_alone(tmp_path: Path) -> None:
    model = hub.load(tiny_model(tmp_path / "start"))
    ids = torch.arange(40, 60)[None]
    before = model(ids).logits
    grow_vocabulary(model, 300)
    after = model(ids).logits
    assert after.shape[-1] == 304 and torch.allclose(after[..., :264], before, atol=1e-6)
    assert model.lm_head.weight is model.backbone.embeddings.weight


def answer(folder: Path, prompt: str) -> str:
    """The greedy answer, as chat gives it."""
    model, tokenizer = hub.load(folder), load_tokenizer(folder)
    text = tokenizer.render_chat([{"role": "user", "content": prompt}])
    ids = [tokenizer.bos_id, *tokenizer.encode(text, special=True)]
    end = tokenizer.token_id("<|end|>")
    made = engine.generate(model, torch.tensor([ids]), 40, eos=[end])[0, len(ids) :].tolist()
    return tokenizer.decode(made[: made.index(end)] if end in made else made)


def test_stage_two_teaches_the_format(small_run: Callable[..., Any], corpus_file: Path, instructions: Path, tmp_path: Path) -> None:
    base = small_run(corpus_file, out="base", steps=20, lr=1e-2)
    tuned = small_run(
        instructions, out="tuned", instruct=True, begin=base.checkpoint, length=0, batch_tokens=512, steps=150, lr=1e-2, validation=0.1,
    )  # fmt: skip
    assert "chat_template" in json.loads((tuned.checkpoint / "tokenizer_config.json").read_text("utf-8"))
    parsed = 0
    asked = [f"{a}+{b}" for a in range(5) for b in range(5)]
    for prompt in asked:
        try:
            parsed += isinstance(json.loads(answer(tuned.checkpoint, prompt))["result"], int)
        except (ValueError, KeyError, TypeError):
            continue
    assert parsed >= 0.95 * len(asked), f"{parsed} of {len(asked)} answers parse"
    with pytest.raises((ValueError, KeyError, TypeError)):
        json.loads(answer(base.checkpoint, "1+1"))["result"]
