"""Perplexity and bits per byte against a plain computation; files of every kind; the command line."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from anymamba import cli
from anymamba.errors import AnymambaError
from anymamba.evaluation.perplexity import score_file, score_text
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.tokenizer import byte_tokenizer
from anymamba.training.data import readers
from anymamba.training.data.skips import Skips

TEXT = "The state is constant; 你好，世界。\nA second line.\n" * 3
BYTES = byte_tokenizer()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(MambaConfig(264, 16, 4, 2))


@torch.no_grad()
def nats(model: LanguageModel, ids: list[int], first: int = 0) -> float:
    """Of predicting ids[1 + first:] from all before, in one row."""
    logits = model(torch.tensor([ids[:-1]])).logits[0].double()
    return F.cross_entropy(logits[first:], torch.tensor(ids[1 + first :]), reduction="sum").item()


@pytest.mark.parametrize("window", [2, 7, 64, 100000])
def test_recurrent_is_the_whole_text_in_one_row(model: LanguageModel, window: int) -> None:
    score = score_text(model, BYTES, TEXT, window=window)
    size = len(TEXT.encode())
    expected = nats(model, [256, *TEXT.encode()])
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert (score.tokens, score.bytes) == (size, size)
    assert score.perplexity == pytest.approx(math.exp(expected / size), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(expected / size / math.log(2), rel=1e-5)


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 16), (16, 1), (1000, 5), (7, 3)])
def test_sliding(model: LanguageModel, window: int, stride: int) -> None:
    ids = [256, *TEXT.encode()]
    expected, start, scored = 0.0, 0, 0
    while True:
        piece = ids[start : start + window + 1]
        if len(piece) - 1 > scored:
            expected += nats(model, piece, scored)
        if start + window + 1 > len(ids):
            break
        start, scored = start + stride, window - stride
    score = score_text(model, BYTES, TEXT, mode="sliding", window=window, stride=stride)
    assert score.tokens == len(ids) - 1
    assert score.nats == pytest.approx(expected, rel=1e-5)


def test_files_are_read_in_pieces(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_bytes(TEXT.encode())
    whole = score_file(model, BYTES, tmp_path / "text")
    for size in (1, 3, 10):
        monkeypatch.setattr(readers, "BLOCK", size)
        monkeypatch.setattr(readers, "HEAD", size)
        score = score_file(model, BYTES, tmp_path / "text")
        assert (score.tokens, score.bytes) == (whole.tokens, whole.bytes)
        assert score.nats == pytest.approx(whole.nats, rel=1e-6)


@pytest.mark.parametrize("window", [16, 37, 2048])
@pytest.mark.parametrize("mode", ["recurrent", "sliding"])
def test_records_are_documents_of_their_own(model: LanguageModel, tmp_path: Path, mode: str, window: int) -> None:
    texts = [f"record {number}: 你好 " * (1 + number % 4) for number in range(9)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts) + '{"title": 1}\n', "utf-8")
    skips = Skips()
    score = score_file(model, BYTES, path, mode, window, text_field="body", skips=skips)
    each = [score_text(model, BYTES, text, mode, window) for text in texts]
    assert score.bytes == sum(len(text.encode()) for text in texts) == score.tokens
    assert score.nats == pytest.approx(sum(one.nats for one in each), rel=1e-5)
    assert (skips.total, skips.count) == (10, 1) and "has no field 'body'" in skips.summary()


def test_other_kinds_and_encodings(model: LanguageModel, tmp_path: Path) -> None:
    expected = score_text(model, BYTES, TEXT)
    (tmp_path / "a.txt").write_bytes(TEXT.encode("gb18030"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "c.json").write_text(json.dumps([{"text": TEXT}], indent=1), "utf-8")
    for name, encoding in (("a.txt", "gb18030"), ("b.txt.gz", "utf-8"), ("c.json", "utf-8")):
        score = score_file(model, BYTES, tmp_path / name, encoding=encoding)
        assert score.nats == pytest.approx(expected.nats, rel=1e-5) and score.bytes == expected.bytes
    with pytest.raises(AnymambaError, match="--encoding gb18030"):
        score_file(model, BYTES, tmp_path / "a.txt")


def test_a_model_in_training_stays_in_training(model: LanguageModel) -> None:
    model.train()
    score_text(model, BYTES, TEXT)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("block", [1, 4, 2**20])
def test_bad_files(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    (tmp_path / "empty").touch()
    (tmp_path / "latin1").write_bytes(b"good\nna" + b"\xefve")
    (tmp_path / "cut").write_bytes("good 你".encode()[:-1])
    for name, message in (("none", "no file"), ("empty", "is empty"), ("latin1", "byte 7\n"), ("cut", "byte 5\n")):
        with pytest.raises(AnymambaError, match=message):
            score_file(model, BYTES, tmp_path / name)


def test_impossible_requests(model: LanguageModel) -> None:
    for options in ({"mode": "circular"}, {"window": 1}, {"mode": "sliding", "window": 8, "stride": 9}):
        with pytest.raises(AnymambaError):
            score_text(model, BYTES, TEXT, **options)
    with pytest.raises(AnymambaError, match="262 tokens, the model 100"):
        score_text(LanguageModel(MambaConfig(100, 16, 4, 1)), BYTES, TEXT)
    with pytest.raises(AnymambaError, match="too short"):
        score_text(model, BYTES, "")


def test_command_line(model: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.save(model, tmp_path / "model", BYTES)
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    words = ["eval", str(tmp_path / "model"), str(tmp_path / "text"), "--lang", "en", "--device", "cpu"]
    assert cli.main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    score = score_text(model, BYTES, TEXT)
    assert report["files"][0]["bits_per_byte"] == pytest.approx(score.bits_per_byte, rel=1e-6)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXT}) + "\n" + json.dumps({"text": "another"}) + "\n{\n")
    assert cli.main([*words[:2], str(tmp_path / "a.jsonl"), "--lang", "en", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert "2 documents, " in told.out and "1 of 3 records skipped: 1 not JSON" in told.err
    assert cli.main([*words, "--encoding", "utf-99"]) == 2 and "--encoding" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert f"{score.bits_per_byte:.4f} bits per byte" in capsys.readouterr().out
    assert cli.main([*words[:2], str(tmp_path / "none"), "--lang", "en"]) == 1
    assert "none does not exist" in capsys.readouterr().err
    assert cli.main([*words[:2], "--lang", "en"]) == 2
    assert "nothing to evaluate" in capsys.readouterr().err
