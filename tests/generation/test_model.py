"""The front door: text in, text out, on the object that ``anymamba.load`` returns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.training.runs import tiny_model
from transformers import AutoModelForCausalLM

import anymamba
from anymamba.errors import AnymambaError, ArgumentError
from anymamba.generation import engine
from anymamba.generation.model import SCORED_TOKENS, Model, load
from anymamba.models import hub
from anymamba.models.lm import LanguageModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("front") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder, device="cpu")


def test_load_brings_model_and_tokenizer(folder: Path, model: Model) -> None:
    assert isinstance(model, LanguageModel) and not model.training
    assert model.tokenizer is not None and model.tokenizer.decode(model.tokenizer.encode("a b")) == "a b"
    assert anymamba.load is load and anymamba.from_pretrained is load
    again = Model.from_pretrained(folder, device="cpu")
    for name, tensor in hub.load(folder).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor) and torch.equal(again.state_dict()[name], tensor)


def test_generate_takes_a_text_texts_or_ids(model: Model) -> None:
    assert model.tokenizer is not None
    text = model.generate("one two", 12)
    ids = torch.tensor([model.tokenizer.encode("one two")])
    rows = model.generate(ids, 12)
    assert isinstance(text, str)
    assert torch.equal(rows, engine.generate(model, ids, 12))
    assert text == model.tokenizer.decode([token for token in rows[0, ids.shape[1] :].tolist() if token < 256])
    assert model.generate(["one two", "x"], 12) == [text, model.generate("x", 12)]
    assert model.generate([], 12) == []


def test_stream_yields_the_same_text(model: Model) -> None:
    options = {"temperature": 1.0, "seed": 5}
    assert "".join(model.stream("ab", 30, **options)) == model.generate("ab", 30, **options)
    steps = list(model.stream(torch.tensor([[97, 98]]), 3))
    assert [step.ids.shape for step in steps] == [(1,)] * 3


def test_stop_ends_the_text(model: Model) -> None:
    whole = model.generate("ab", 30, temperature=1.0, seed=5)
    stop = whole[4:6]
    assert model.generate("ab", 30, stop=[stop], temperature=1.0, seed=5) == whole[: whole.index(stop)]


def test_wrong_arguments_are_refused_before_anything_is_written(model: Model) -> None:
    with pytest.raises(ArgumentError, match="top_p"):
        model.stream("ab", 3, top_p=2.0)
    with pytest.raises(ArgumentError, match="'half' is not known") as caught:
        load("nowhere", dtype="half")
    assert "float16" in str(caught.value.fix)
    with pytest.raises(ArgumentError, match="int3"):
        load("nowhere", quantize="int3")


def test_score_is_the_log_probability_of_each_token(model: Model) -> None:
    text = "the score of a text that is longer than one piece. " * 8
    assert model.tokenizer is not None and len(text) > SCORED_TOKENS
    scores = model.score(text)
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(text)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    wanted = logits.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(scores.log_probabilities), wanted, rtol=1e-5, atol=1e-5)
    assert "".join(scores.tokens) == text
    assert scores.total == pytest.approx(float(wanted.sum()), rel=1e-5)
    assert anymamba.evaluate(model, text=text).perplexity == pytest.approx(scores.perplexity, rel=1e-5)
    assert math.isclose(anymamba.evaluate(model, text=text).nats, -scores.total, rel_tol=1e-5)
    with pytest.raises(AnymambaError, match="too short"):
        model.score("")


def test_save_pretrained_is_read_by_load_and_by_transformers(model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    assert load(tmp_path / "saved", device="cpu").generate("ab", 8) == model.generate("ab", 8)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[97, 98, 99]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", ["int8", "int4"])
def test_rounded_weights_are_saved_and_load_as_they_were(width: str, folder: Path, tmp_path: Path) -> None:
    rounded = load(folder, device="cpu", quantize=width)
    rounded.save_pretrained(tmp_path / width)
    again = load(tmp_path / width, device="cpu")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, rounded(ids).logits)
    assert again.generate("the", 5) == rounded.generate("the", 5)



def test_dtype_by_name(folder: Path) -> None:
    assert load(folder, device="cpu", dtype="bf16").dtype == torch.bfloat16
    assert load(folder, device="cpu", dtype=torch.float16).dtype == torch.float16


def test_a_checkpoint_without_tokenizer_takes_ids_and_says_so_for_text(folder: Path, tmp_path: Path) -> None:
    hub.save(hub.load(folder), tmp_path / "bare")
    model = load(tmp_path / "bare", device="cpu")
    assert model.generate(torch.tensor([[1, 2]]), 3).shape == (1, 5)
    for attempt in (lambda: model.generate("a"), lambda: model.score("a"), lambda: anymamba.evaluate(model, text="a")):
        with pytest.raises(AnymambaError, match="without a tokenizer") as caught:
            attempt()
        assert "tokenizer=" in str(caught.value.fix)
    assert isinstance(load(tmp_path / "bare", device="cpu", tokenizer="bytes").generate("a", 3), str)


def test_evaluate_reads_a_file_or_a_text(model: Model, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("some words to be scored\n", "utf-8")
    assert anymamba.evaluate(model, path) == anymamba.evaluate(folder, path)
    for wrong in ({}, {"file": path, "text": "x"}):
        with pytest.raises(AnymambaError, match="one of the two"):
            anymamba.evaluate(model, **wrong)


def test_mapped_weights_lie_in_the_file_and_give_the_same_text(folder: Path) -> None:
    own, mapped = load(folder, "cpu"), load(folder, "cpu", mapped=True)
    assert mapped.generate("ab", 20) == own.generate("ab", 20)
    maps = Path("/proc/self/maps")
    if maps.exists():
        ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(folder.resolve()) in line]
        inside = [
            any(int(start, 16) <= model.lm_head.weight.data_ptr() < int(end, 16) for start, end in ranges) for model in (own, mapped)
        ]
        assert inside == [False, True]
    with torch.no_grad():
        mapped.lm_head.weight.zero_()  # in the memory of this process alone
    assert load(folder, "cpu").lm_head.weight.any()
    assert load(folder, "cpu", "bfloat16", mapped=True).dtype == torch.bfloat16
