"""anymamba generate, from the command line's point of view."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from anymamba.cli import main
from anymamba.cli.terminal.standard_input import decode
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = byte_tokenizer()
    torch.manual_seed(1)
    config = MambaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        eos_token_id=tokenizer.eos_id,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    hub.save(LanguageModel(config), folder, tokenizer=tokenizer)
    return str(folder)


def generate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["generate", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_text_on_stdout_figures_on_stderr(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = generate(capsys, checkpoint, "-p", "hello", "-m", "20")
    assert code == 0 and out.strip()
    assert "tokens" in err and "cpu sequence" in err
    assert generate(capsys, checkpoint, "-p", "hello", "-m", "20")[1] == out


def test_json_is_one_document(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = generate(capsys, checkpoint, "-p", "hello", "-m", "9", "--json", "--confidence")
    document = json.loads(out)
    (result,) = document["results"]
    assert result["new_tokens"] == len(result["tokens"]) <= 9
    assert all(0 <= token["probability"] <= 1 for token in result["tokens"])
    assert document["timing"]["prompt_tokens"] == 5


def test_prompt_from_stdin(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = generate(capsys, checkpoint, "-p", "hello", "-m", "8", "-q")[1]
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    assert generate(capsys, checkpoint, "-p", "-", "-m", "8", "-q") == (0, typed, "")


def test_a_batch_of_prompts_equals_single_ones(
    checkpoint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts = ["hello", "a longer prompt than that", "x"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts), "utf-8")
    _, out, _ = generate(capsys, checkpoint, "--prompts", str(tmp_path / "prompts.txt"), "-m", "10", "--json")
    together = [result["text"] for result in json.loads(out)["results"]]
    alone = []
    for prompt in prompts:
        _, out, _ = generate(capsys, checkpoint, "-p", prompt, "-m", "10", "--json")
        alone.append(json.loads(out)["results"][0]["text"])
    assert together == alone


def test_a_saved_state_continues_the_text(checkpoint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    whole = generate(capsys, checkpoint, "-p", "once upon a time", "-m", "12", "-q")[1]
    assert generate(capsys, checkpoint, "-p", "once upon a time", "-m", "0", "--save-state", state, "-q") == (0, "", "")
    assert generate(capsys, checkpoint, "--load-state", state, "-m", "12", "-q")[1] == whole


def test_quantized_and_bfloat16_models_generate(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--quantize", "int8"], ["--dtype", "bfloat16"]):
        code, out, err = generate(capsys, checkpoint, "-p", "hello", "-m", "10", *option)
        assert code == 0 and "cpu sequence" in err, out


def test_confidence_marks_tokens_without_colour(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = generate(capsys, checkpoint, "-p", "hello", "-m", "20", "--confidence", "--temp", "3", "--seed", "1")
    assert "⟦" in out and "%⟧" in out and "mean entropy" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such/folder/here"], "no/such/folder/here"),
        (["CHECKPOINT", "-p", "x", "--top-p", "2"], "top_p"),
        (["CHECKPOINT", "-p", "x", "--prompts", "f", "--confidence"], "--prompts"),
        (["CHECKPOINT", "--load-state", "missing.state"], "missing.state"),
        (["CHECKPOINT", "-p", "x", "--backend", "nonsense"], "nonsense"),
    ],
)
def test_errors_name_the_cause_and_show_no_traceback(
    checkpoint: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = generate(capsys, *(checkpoint if word == "CHECKPOINT" else word for word in words))
    assert code == (1 if "no/such" in message or "missing" in message else 2) and not out
    assert message in err and "Traceback" not in err and "bug" not in err


def test_a_batch_says_how_each_text_ended_and_how_long_it_is(checkpoint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("hello\nab\n", "utf-8")
    words = [checkpoint, "--prompts", str(tmp_path / "prompts.txt"), "-m", "6", "--json"]
    first, second = json.loads(generate(capsys, *words)[1])["results"]
    assert (first["prompt_tokens"], second["prompt_tokens"]) == (5, 2)
    assert first["finish"] == second["finish"] == "length" and first["new_tokens"] == second["new_tokens"] == 6
    stop = first["text"][1]
    stopped = json.loads(generate(capsys, *words, "--stop", stop)[1])
    assert stopped["results"][0]["finish"] == "stop" and stopped["results"][0]["new_tokens"] < 6
    assert stopped["timing"]["prompt_tokens"] == 7  # padding is not counted


def test_log_probabilities_of_the_token_and_of_the_likeliest(checkpoint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (result,) = json.loads(generate(capsys, checkpoint, "-p", "hello", "-m", "4", "--json", "--logprobs", "3")[1])["results"]
    model = hub.load(checkpoint)
    with torch.inference_mode():
        expected = model(torch.tensor([list(b"hello")])).logits[0, -1].log_softmax(-1).topk(3)
    first = result["tokens"][0]
    assert [entry["id"] for entry in first["alternatives"]] == expected.indices.tolist()
    assert [entry["log_probability"] for entry in first["alternatives"]] == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert first["id"] == expected.indices[0] and first["log_probability"] == pytest.approx(float(expected.values[0]), abs=1e-4)
    (tmp_path / "prompts.txt").write_text("hello\nab\n", "utf-8")
    words = ["--prompts", str(tmp_path / "prompts.txt"), "-m", "4", "--json", "--logprobs", "3"]
    together = json.loads(generate(capsys, checkpoint, *words)[1])["results"][0]
    for one, other in zip(result["tokens"], together["tokens"], strict=True):
        assert [entry["id"] for entry in one["alternatives"]] == [entry["id"] for entry in other["alternatives"]]
        assert one["log_probability"] == pytest.approx(other["log_probability"], abs=1e-4)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seed", "-1"], "seed"),
        (["--seed", str(2**64)], "seed"),
        (["-m", "-5"], "-5"),
        (["--logprobs", "3"], "--json"),
        (["--json", "--logprobs", "-1"], "--logprobs"),
    ],
)
def test_values_that_cannot_be_are_named_before_the_model_is_read(capsys: pytest.CaptureFixture[str], words: list[str], named: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anymamba.models.hub.find", lambda *_: pytest.fail("the model was looked for"))
        code, out, err = generate(capsys, "no/model", "-p", "x", *words)
    assert code != 0 and not out and named in err and "a bug of anymamba" not in err


@pytest.mark.parametrize(
    ("content", "read", "note"),
    [
        ("grün 猫\n".encode(), "grün 猫\n", None),
        ("grün\n".encode("latin-1"), "grün\n", "Latin-1"),
        ("猫 grün ".encode() + b"\xe7\x8c", "猫 grün \ufffd", "damage"),
        ("\ufeffabc".encode(), "abc", None),
        ("grün".encode("utf-16"), "grün", None),
        (b"\x80\x81\xfe\xff", "\u20ac\ufffd\xfe\xff", "Latin-1"),
    ],
)
def test_the_encoding_of_stdin(content: bytes, read: str, note: str | None) -> None:
    text, said = decode(content)
    assert text == read and (said is None if note is None else note in (said or ""))


def test_bytes_that_are_no_utf8_are_continued(checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anymamba.cli.terminal.standard_input._said", set())  # as in a new process
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"gr\xfcn"), "utf-8"))
    code, out, err = generate(capsys, checkpoint, "-p", "-", "-m", "4", "--json")
    assert code == 0 and json.loads(out)["results"][0]["prompt"] == "grün" and "Latin-1" in err
