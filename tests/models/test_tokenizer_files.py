"""Tokenizers: bytes, any tokenizer.json, and what transformers makes of what we save."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from anymamba.errors import AnymambaError
from anymamba.models.tokenizer import CHAT_TEMPLATE, Tokenizer, byte_tokenizer, load_tokenizer

BYTES = byte_tokenizer()
CHAT = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "好"}]


@given(st.text())
def test_bytes_are_ids(text: str) -> None:
    assert BYTES.encode(text) == list(text.encode())
    assert BYTES.decode(BYTES.encode(text)) == text


def test_special_tokens_only_where_asked() -> None:
    text = "a<|endoftext|>b"
    assert BYTES.encode(text) == list(text.encode())
    assert BYTES.encode(text, special=True) == [97, 256, 98]
    assert BYTES.encode_batch([text, "b"]) == [list(text.encode()), [98]]
    assert BYTES.encode_batch([text], special=True) == [[97, 256, 98]]
    assert (BYTES.eos_id, BYTES.bos_id, BYTES.pad_id, BYTES.vocab_size) == (256, 256, 257, 262)
    assert BYTES.decode([97, 256, 98], skip_special=True) == "ab"


def test_half_a_character() -> None:
    assert BYTES.decode("你".encode()[:2]) == "\ufffd"


def trained() -> Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["the cat sat on the mat, the rat on the cat"] * 20, trainer)
    return Tokenizer(backend, eos="<eos>", pad="<eos>")


@pytest.mark.parametrize("normalizer", [None, tokenizers.normalizers.Lowercase()], ids=["as written", "lower case"])
def test_the_copy_of_a_vocabulary_is_made_for_texts_with_special_tokens_alone(normalizer: Any) -> None:
    tokenizer = trained()
    if normalizer is not None:
        tokenizer.backend.normalizer = normalizer
    tokenizer.backend.add_special_tokens([tokenizers.AddedToken("<end>", special=True, normalized=normalizer is not None)])
    tokenizer.backend.add_tokens(["rat "])  # added, but not special: a word like others
    literal = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    literal.encode_special_tokens = True
    for text in ("", "the rat sat <eo", "the cat <END> on", "a <end>", "<eos><eos>"):
        assert tokenizer.encode(text) == literal.encode(text, add_special_tokens=False).ids
        assert (tokenizer._literal is None) == (normalizer is None and not any(word in text for word in ("<end>", "<eos>")))
        tokenizer._literal = None
    tokenizer.encode("<new>")
    tokenizer.add_special_tokens(["<new>"])
    assert tokenizer.token_id("<new>") not in tokenizer.encode("<new>")


@pytest.mark.parametrize("make", [byte_tokenizer, trained])
def test_saved_for_us_and_for_transformers(tmp_path: Path, make: Callable[[], Any]) -> None:
    tokenizer = make()
    tokenizer.save(tmp_path)
    text = "the cat 猫\n  é <|user|><eos>"
    again = load_tokenizer(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for special in (False, True):
        assert again.encode(text, special) == tokenizer.encode(text, special)
    assert peer(text)["input_ids"] == tokenizer.encode(text, special=True)
    assert peer.decode(tokenizer.encode(text)) == text == again.decode(again.encode(text))
    assert (again.eos_id, again.pad_id, again.bos_id) == (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id)
    assert (peer.eos_token_id, peer.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert load_tokenizer(tmp_path / "tokenizer.json").encode(text) == tokenizer.encode(text)
    assert again.chat_template == tokenizer.chat_template == peer.chat_template


def test_chat_template_as_transformers_renders_it(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (False, True):
        assert BYTES.render_chat(CHAT, prompt) == peer.apply_chat_template(
            CHAT, tokenize=False, add_generation_prompt=prompt
        )
    assert BYTES.render_chat(CHAT).endswith("<|user|>好<|end|><|assistant|>")
    with pytest.raises(AnymambaError, match="chat template"):
        trained().render_chat(CHAT)


def test_a_template_cannot_reach_the_machine() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(AnymambaError, match="template"):
        tokenizer.render_chat(CHAT)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(AnymambaError, match="roles must alternate"):
        tokenizer.render_chat(CHAT)


def test_older_forms_of_the_special_tokens_and_the_template(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|end|>"}}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|pad|>"}))
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    again = load_tokenizer(tmp_path)
    assert (again.eos_id, again.pad_id, again.bos_id) == (261, 257, None)
    assert again.chat_template == CHAT_TEMPLATE


def test_bytes_by_name_and_what_is_no_tokenizer(tmp_path: Path) -> None:
    assert load_tokenizer("bytes").vocab_size == 262
    (tmp_path / "readme").write_text("x")
    with pytest.raises(AnymambaError, match="readme"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(AnymambaError, match="tokenizer.json"):
        load_tokenizer(tmp_path)


def test_added_tokens_stay_special(tmp_path: Path) -> None:
    tokenizer = trained()
    size = tokenizer.vocab_size
    assert tokenizer.add_special_tokens(["<|user|>", "<eos>"]) == 1
    assert tokenizer.encode("<|user|>", special=True) == [size]
    assert size not in tokenizer.encode("<|user|>")
    assert tokenizer.vocab_size == size + 1
