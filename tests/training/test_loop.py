"""Whole runs: the loss falls, the folder is what it should be, a resumed run repeats the uninterrupted one to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import losses, settings, tiny_model
from torch import Tensor

from anymamba.errors import AnymambaError
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.runfolder import read_metrics
from anymamba.training.run.train import train
from anymamba.training.show.report import Reporter

Run = Callable[..., Any]
POISON = "\x01"


def test_a_run_learns_and_leaves_a_whole_folder(small_run: Run, corpus_file: Path, tmp_path: Path) -> None:
    result = small_run(corpus_file, steps=30, eval_every=10, save_every=10, keep=2, lr=1e-2)
    run = tmp_path / "run"
    assert result.exit_code == 0 and result.steps == 30
    seen = losses(run)
    assert len(seen) == 30 and sum(seen[-5:]) / 5 < seen[0] - 1.0
    assert sorted(path.name for path in run.glob("step-*")) == ["step-000020", "step-000030"]
    assert (run / "last.txt").read_text().strip() == "step-000030"
    document = json.loads((run / "run.json").read_text("utf-8"))
    assert document["config"]["steps"] == 30 and document["versions"]["torch"] == torch.__version__
    assert "rms_norm_fn" in document["backends"]
    validations = [row for row in read_metrics(run) if "val_loss" in row]
    assert [row["step"] for row in validations] == [10, 20, 30]
    # bytes: one token a byte, so bits per byte is the loss in bits, but for the document's one border token
    assert validations[-1]["bits_per_byte"] == pytest.approx(validations[-1]["val_loss"] / 0.6931, rel=1e-2)


def test_transformers_reads_the_step_folder(small_run: Run, corpus_file: Path) -> None:
    transformers = pytest.importorskip("transformers")
    result = small_run(corpus_file, steps=2)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(result.checkpoint, local_files_only=True)
    ours = hub.load(result.checkpoint)
    ids = torch.arange(40, 72)[None]
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, ours(ids).logits, atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.checkpoint, local_files_only=True)
    assert tokenizer.decode([72, 105]) == "Hi"


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("mamba", "fp32"),
        ("mamba2", "bf16"),
        pytest.param("mamba", "bf16", marks=pytest.mark.slow),
        pytest.param("mamba2", "fp32", marks=pytest.mark.slow),
    ],
)
def test_resume_is_bit_identical(documents_file: Path, tmp_path: Path, family: str, precision: str) -> None:
    start = tiny_model(tmp_path / "start", family)
    common = {"precision": precision, "micro_batch": 2, "save_every": 4, "keep": 0, "steps": 9, "batch_tokens": 1024}

    def go(out: str, resume: str = "") -> Any:
        options = settings(start, tmp_path / out, documents_file, **common)
        return train(TrainConfig(**options), resume, Reporter(quiet=True))

    straight = go("straight")
    assert straight.steps == 9  # one and a half epochs
    go("broken")
    # as after a kill -9 in step 9: newer step folders do not exist, but the metrics of later steps do
    for folder in (tmp_path / "broken").glob("step-*"):
        if folder.name > "step-000004":
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    again = go("broken", resume="auto")
    assert again.steps == straight.steps
    assert losses(tmp_path / "broken") == losses(tmp_path / "straight")
    one, other = (hub.load(result.checkpoint).state_dict() for result in (straight, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accumulation_gives_the_same_loss_as_one_large_batch(small_run: Run, documents_file: Path, tmp_path: Path) -> None:
    small_run(documents_file, out="whole", micro_batch=8)
    small_run(documents_file, out="parts", micro_batch=1)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_recomputing_activations_changes_nothing(small_run: Run, corpus_file: Path, tmp_path: Path) -> None:
    small_run(corpus_file, out="kept", checkpointing="off", steps=3)
    small_run(corpus_file, out="again", checkpointing="on", steps=3)
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "kept"), abs=1e-6)


def test_a_new_run_does_not_overwrite_an_old_one(small_run: Run, corpus_file: Path) -> None:
    small_run(corpus_file, steps=1)
    with pytest.raises(AnymambaError, match="already holds a run") as caught:
        small_run(corpus_file, steps=1)
    assert "--resume auto" in str(caught.value)


def test_a_foreign_run_folder_is_refused_with_the_difference(small_run: Run, corpus_file: Path) -> None:
    small_run(corpus_file, steps=1)
    with pytest.raises(AnymambaError, match="another configuration") as caught:
        small_run(corpus_file, steps=1, lr=0.5, length=32, resume="auto")
    assert "--lr: 0.003 -> 0.5" in str(caught.value) and "--length: 64 -> 32" in str(caught.value)


def test_time_limit_shortens_the_schedule(small_run: Run, corpus_file: Path, tmp_path: Path) -> None:
    result = small_run(corpus_file, steps=100_000, max_minutes=0.08, batch_tokens=256)
    assert result.exit_code == 0 and 6 <= result.steps < 20_000
    assert result.seconds < 4.8 * 1.5
    rates = [row["lr"] for row in read_metrics(tmp_path / "run") if "lr" in row]
    assert rates[-1] < 0.35 * max(rates)  # the learning rate came down although the plan was far longer


def test_a_diverging_run_says_so(small_run: Run, corpus_file: Path) -> None:
    with pytest.raises(AnymambaError, match="step") as caught:
        small_run(corpus_file, steps=40, lr=1e30, clip=0.0, warmup=1)
    assert caught.value.code == "diverged" and "--lr" in str(caught.value)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_row_that_is_not_finite_is_named(small_run: Run, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """One row of the data has a byte on which the model breaks; the error names the step, the row and what stands in it."""
    data = tmp_path / "poisoned.txt"
    data.write_text(text[:8000] + 3 * POISON + text[8000:16000], "utf-8")
    forward = LanguageModel.forward

    def breaking(model: LanguageModel, ids: Tensor, *arguments: Any, **options: Any) -> Any:
        output = forward(model, ids, *arguments, **options)
        if (ids == ord(POISON)).any():
            nothing = model.backbone.norm_f.weight.mean() * 0
            output.loss = output.loss + (nothing.sqrt() if where == "gradient" else nothing / nothing)
        return output

    monkeypatch.setattr(LanguageModel, "forward", breaking)
    with pytest.raises(AnymambaError, match=f"the {where} of step [0-9]+ .*\n.*from row [0-9]+(, [0-9]+)? of [0-9]+ alone") as caught:
        small_run(data, steps=200, batch_tokens=256, max_minutes=0.5)
    assert caught.value.code == "diverged" and "begins with" in str(caught.value)


def test_samples_are_written_and_do_not_disturb_training(small_run: Run, corpus_file: Path, tmp_path: Path) -> None:
    small_run(corpus_file, out="silent", steps=4)
    small_run(corpus_file, out="talking", steps=4, sample_every=2, sample_prompt="The ")
    assert losses(tmp_path / "talking") == losses(tmp_path / "silent")
    written = (tmp_path / "talking" / "samples.txt").read_text("utf-8")
    assert written.count("--- step") == 2 and "The " in written
