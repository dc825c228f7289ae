"""Validation: on how many rows and how often, a file of one's own, the best weights, early stopping; questions for stage 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.training.runs import settings

from anymamba.cli import main
from anymamba.errors import AnymambaError
from anymamba.models import hub
from anymamba.models.tokenizer import load_tokenizer
from anymamba.training.data.corpus import open_corpus
from anymamba.training.loop import evaluate, validation
from anymamba.training.loop.evaluate import Score
from anymamba.training.loop.pace import Pace
from anymamba.training.loop.validation import Validation, score_line
from anymamba.training.run import setup
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.runfolder import read_metrics
from anymamba.training.run.train import train
from anymamba.training.show.report import Reporter

Run = Callable[..., Any]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 97, 1000])
def test_every_beginning_of_the_rows_is_spread(count: int) -> None:
    order = evaluate.spread(count)
    assert sorted(order) == list(range(count))
    if count >= 10:
        first = sorted(order[: count // 3])
        gaps = [b - a for a, b in zip(first, first[1:])]
        assert max(gaps) <= 8 and first[0] == 0


def faked(available: int, steps: int, every: int, eval_tokens: int = -1, rows: int = 8) -> Any:
    """A run as far as a validation looks at it, with rows of 256 tokens."""
    return SimpleNamespace(
        config=TrainConfig(eval_tokens=eval_tokens),
        plan=SimpleNamespace(steps=steps, eval_every=every, rows=rows),
        held_out=SimpleNamespace(count=available, length=256),
        processes=SimpleNamespace(world=1, least=lambda value: value),
    )


@pytest.mark.parametrize(("step_seconds", "steps"), [(0.1, 1000), (5.0, 22), (1.0, 100)])
def test_validations_take_a_twentieth_of_the_time(step_seconds: float, steps: int) -> None:
    """The clock is faked: a row costs as much as a third of its training, at first unknown."""
    run = faked(100_000, steps, max(10, steps // 10))
    held = Validation(run, {})
    pace = Pace(limit=steps * step_seconds)
    pace.estimate = step_seconds
    spent = 0.0
    for step in [*range(run.plan.eval_every, steps, run.plan.eval_every), steps]:
        rows = held._count(step, pace, step)
        assert 1 <= rows <= validation.MOST_TOKENS // 256
        seconds = rows * step_seconds / 8 / 3
        held.rows, held._row_seconds = rows, seconds / rows
        spent += seconds
        pace.totals["validation"] = spent
    assert 0.015 < spent / (steps * step_seconds) <= 0.05


def test_a_number_of_tokens_asked_for_is_kept() -> None:
    pace = Pace(limit=10.0)
    pace.estimate = 5.0
    assert Validation(faked(100, 10, 1, eval_tokens=0), {})._count(1, pace, 1) == 100
    assert Validation(faked(100, 10, 1, eval_tokens=2560), {})._count(1, pace, 1) == 10
    assert Validation(faked(100, 10, 1, eval_tokens=1), {})._count(1, pace, 1) == 1


def test_the_line_says_when_it_is_a_part() -> None:
    assert score_line(7, Score(1.0, 2.7, None, 512, 2), 30).endswith("(2 of 30 rows)")
    assert "rows" not in score_line(7, Score(1.0, 2.7, 1.4, 512, 30), 30)


def test_a_file_of_ones_own(small_run: Run, corpus_file: Path, documents_file: Path, tmp_path: Path, text: str) -> None:
    small_run(corpus_file, val=[str(documents_file)], steps=2, eval_tokens=0)
    run = tmp_path / "run"
    assert open_corpus(run / "data").train.text_bytes == len(text.encode()), "nothing is held out of the data"
    assert len(open_corpus(run / "data").held_out.tokens) == 0
    own = open_corpus(run / "val").train
    assert own.text_bytes == sum(len(json.loads(line)["text"].encode()) for line in documents_file.read_text("utf-8").splitlines())
    assert [row["step"] for row in read_metrics(run) if "val_loss" in row] == [2]
    # the run goes on without being told again, and not with another file
    assert main(["train", "--resume", "auto", "--out", str(run), "--steps", "3", "-q"]) == 0
    with pytest.raises(AnymambaError, match="--val"):
        small_run(corpus_file, val=[str(corpus_file)], steps=4, resume="auto")


def test_a_bad_validation_file_is_named(small_run: Run, corpus_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(AnymambaError, match=r"empty\.txt"):
        small_run(corpus_file, val=[str(tmp_path / "empty.txt")], steps=2)


def test_stage_two_with_a_file_of_its_own(start: Path, instructions: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": "what is 2+2?", "response": "four"}) + "\n")
    options = {**settings(start, tmp_path / "run", instructions), "instruct": True, "val": [str(asked)], "steps": 2, "length": 0}
    options |= {"sample_every": 1}
    train(TrainConfig(**options), "", Reporter(quiet=True))
    samples = (tmp_path / "run" / "samples.txt").read_text("utf-8")
    assert samples.count("what is 2+2?") == 2, "samples answer a question of the validation file"
    tokenizer = load_tokenizer(tmp_path / "run" / "data")
    question = setup.first_question(open_corpus(tmp_path / "run" / "val"))
    assert tokenizer.decode(question, skip_special=False).rstrip().endswith("<|assistant|>"), "the template asks for an answer"


def test_the_best_weights_are_kept_and_training_stops_early(
    small_run: Run, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.2, 1.0, 1.1, 1.1, 1.1])
    real = evaluate.evaluate

    def faked_scores(*arguments: Any, **more: Any) -> Score | None:
        assert real(*arguments, **more) is not None
        return Score(next(losses), 1.0, None, 64, 1)

    monkeypatch.setattr(validation, "evaluate", faked_scores)
    result = small_run(corpus_file, steps=100, eval_every=2, save_every=3, keep=0, patience=2)
    run = tmp_path / "run"
    assert result.steps == 8 and result.exit_code == 0, "two validations after the best at step 4"
    assert result.best == run / "best" and result.best_step == 4
    assert json.loads((run / "best" / "validation.json").read_text()) == {"step": 4, "val_loss": 2.0}
    assert not (run / "best" / "optimizer.safetensors").exists()
    best, last = hub.load(run / "best").state_dict(), hub.load(result.checkpoint).state_dict()
    assert any(not torch.equal(best[name], last[name]) for name in best)
    # more patience goes on, and remembers the best
    more = small_run(corpus_file, steps=100, eval_every=2, save_every=3, keep=0, patience=3, resume="auto")
    assert more.best_step == 10 and more.steps == 16


def test_the_best_of_the_last_step_shares_its_file(small_run: Run, corpus_file: Path, tmp_path: Path) -> None:
    result = small_run(corpus_file, steps=2)
    best, last = (folder / "model.safetensors" for folder in (tmp_path / "run" / "best", result.checkpoint))
    assert best.read_bytes() == last.read_bytes() and best.stat().st_ino == last.stat().st_ino
    assert load_tokenizer(tmp_path / "run" / "best").vocab_size == load_tokenizer(result.checkpoint).vocab_size


def test_patience_needs_something_to_validate_on(small_run: Run, corpus_file: Path) -> None:
    with pytest.raises(AnymambaError, match="--patience 2: there is nothing") as caught:
        small_run(corpus_file, steps=2, validation=0.0, patience=2)
    assert caught.value.code == "usage"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--from", "{start}", "--size", "small"], "--from and --size"),
        (["--from", "{start}", "--size", "tiny"], "--from and --size"),
        (["--from", "{start}", "--model", "mamba2"], "--from and --model"),
        (["--from", "{start}", "--train-tokenizer", "300"], "--train-tokenizer and --from"),
        (["--val", "{a}", "--validation", "0.1"], "--val and --validation"),
    ],
)
def test_options_that_another_makes_void(tmp_path: Path, start: Path, more: list[str], says: str, capsys: Any) -> None:
    (tmp_path / "a.txt").write_text("some text " * 50)
    words = [word.format(start=start, a=tmp_path / "a.txt") for word in more]
    assert main(["train", str(tmp_path / "a.txt"), "--out", str(tmp_path / "run"), *words]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "run").exists()
