"""--deterministic: two runs are the same to the last bit, whatever else the machine does; what cannot be so is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.runs import command, flags, losses, settings, tiny_model

from anymamba.backends import dispatch
from anymamba.determinism import deterministic
from anymamba.errors import AnymambaError
from anymamba.training.loop.loop import Result
from anymamba.training.machine import cpu_use, fit, memory
from anymamba.training.run.runfolder import read_metrics

CURVES = "loss", "grad_norm", "val_loss"


def curves(folder: Path) -> list[tuple[float, ...]]:
    return [tuple(row[name] for name in CURVES if name in row) for row in read_metrics(folder)]


def assert_same_weights(a: Path, b: Path) -> None:
    one, other = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("options", [{"backend": "cpu"}, {"backend": "torch"}, {"precision": "bf16"}], ids=str)
def test_two_runs_are_the_same_to_the_last_bit(
    small_run: Callable[..., Result], tmp_path: Path, corpus_file: Path, family: str, options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The second run finds a busy machine with little free memory: neither may reach the numbers."""
    begin = tiny_model(tmp_path / "begin", family)
    fixed = {"steps": 8, "validation": 0.2, "deterministic": True, "threads": 2, **options}
    results = [small_run(corpus_file, out="first", begin=begin, **fixed)]
    dispatch.forget()
    monkeypatch.setattr(cpu_use, "others", lambda before, after: 1.0)
    monkeypatch.setattr(memory, "left", lambda device: 64 * 10**6)
    results.append(small_run(corpus_file, out="second", begin=begin, **fixed))
    first, second = curves(tmp_path / "first"), curves(tmp_path / "second")
    assert len(first) > 8 and first == second
    assert_same_weights(*(result.checkpoint for result in results))


def test_an_ordinary_run_is_fitted_to_the_machine_and_a_deterministic_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "left", lambda device: 10_000)
    cpu = torch.device("cpu")
    assert fit.choose_rows(2000, 8, 64, cpu, 0) == 2
    with pytest.raises(AnymambaError, match="--micro-batch 4"):
        fit.fixed_rows(2000, 8, 64, cpu, 0)
    monkeypatch.setattr(memory, "left", lambda device: 10_000_000)
    assert fit.fixed_rows(2000, 8, 64, cpu, 0) == 8


def test_two_processes_with_other_hash_seeds(tmp_path: Path, start: Path, documents_file: Path) -> None:
    runs = []
    for seed in ("1", "2"):
        words = flags(settings(start, tmp_path / seed, documents_file, deterministic=True))
        runs.append(command("train", *words, environment={"PYTHONHASHSEED": seed}))
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    assert losses(tmp_path / "1") == losses(tmp_path / "2") and len(losses(tmp_path / "1")) == 6
    assert_same_weights(*(tmp_path / seed / "step-000006" for seed in ("1", "2")))


def test_without_the_same_seed_the_runs_differ(small_run: Callable[..., Result], tmp_path: Path, corpus_file: Path) -> None:
    """What the tests above compare can differ."""
    small_run(corpus_file, out="first", deterministic=True, steps=2)
    small_run(corpus_file, out="second", deterministic=True, steps=2, seed=1)
    assert losses(tmp_path / "first") != losses(tmp_path / "second")


def test_the_clock_may_not_decide(small_run: Callable[..., Result], corpus_file: Path) -> None:
    with pytest.raises(AnymambaError, match="clock"):
        small_run(corpus_file, deterministic=True, max_minutes=1.0)


def test_an_operation_without_a_deterministic_form_is_named() -> None:
    message = "kthvalue CUDA does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'."
    with pytest.raises(AnymambaError, match="kthvalue") as caught, deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError(message)
    assert "--deterministic" in str(caught.value) and message in str(caught.value)
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="out of memory"), deterministic(True):
        raise RuntimeError("out of memory")
