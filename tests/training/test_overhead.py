"""What the loop adds to the bare model step: feeding rows, clipping, metrics, the live line."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import torch
from tests.training.runs import settings, tiny_model

from anymamba.models import hub
from anymamba.training.loop import optim
from anymamba.training.loop.loop import Loop
from anymamba.training.machine.parallel import Processes
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.train import prepare
from anymamba.training.show.report import Reporter


@pytest.mark.slow
def test_training_reaches_nine_tenths_of_the_bare_step(corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both take turns on one machine, so that its other load falls on both; fastest steps and medians are compared."""
    start = tiny_model(tmp_path / "start", width=256, layers=4)
    options = settings(start, tmp_path / "run", corpus_file, length=256, batch_tokens=2048, micro_batch=8, steps=1000, precision="auto")
    run = prepare(TrainConfig(**options), "", Processes("cpu"), Reporter(quiet=True))
    loop = Loop(run)
    bare = hub.load(start, dtype=torch.float32).train()
    optimizer = optim.adamw(bare.named_parameters(), optim.decaying_names(bare), 1e-3, 0.1, (0.9, 0.95), torch.device("cpu"))
    batch = run.feeder.batch(0)
    times: dict[str, list[float]] = {"bare": [], "loop": []}
    for _ in range(25):
        begin = time.perf_counter()
        with run.autocast():
            loss = bare(batch.input_ids, targets=batch.labels, seq_idx=batch.seq_idx).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        middle = time.perf_counter()
        loop.one_step()
        loop.report()
        times["bare"].append(middle - begin)
        times["loop"].append(time.perf_counter() - middle)
    ratios = [function(times["bare"][5:]) / function(times["loop"][5:]) for function in (min, statistics.median)]
    with capsys.disabled():
        print(f"\nloop at {ratios[0]:.0%} (fastest) and {ratios[1]:.0%} (median) of the bare step")
    assert max(ratios) >= 0.9
