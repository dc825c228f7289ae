"""Kernels on several threads: every task once, after a fork, in loader workers, from many Python threads."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from anymamba.backends.cpu.jit import threads
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import Kernel

TASKS = 1000


def fill(k: Kernel) -> None:
    """out[task, :] = task, through this worker's scratch."""
    out, row = k.pointer("out", "float32"), k.scratch(k.width)
    number = k.wrap(k.builder.sitofp(k.task.ir, row.scalar(0).ir.type))
    with k.loop(0, 100):
        row.store(0, k.vector(number))
    out.store(k.task * k.width, row.load(0))


FILL = Program("test_fill", fill)


def run_fill(workers: int | None = None) -> bool:
    from anymamba.backends.cpu.jit.target import host

    out = torch.full((TASKS, host().width), float("nan"))
    FILL.run(TASKS, workers=workers, out=out)
    return bool((out == torch.arange(TASKS)[:, None]).all())


@pytest.fixture
def python_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a system whose OpenMP runtime we cannot call."""
    monkeypatch.setattr(threads, "_gomp_parallel", lambda: None)
    yield


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_task_runs_once_with_its_own_scratch(workers: int) -> None:
    assert run_fill(workers)


@pytest.mark.parametrize("workers", [2, 7])
def test_pool_of_python_threads(workers: int, python_threads: None) -> None:
    assert threads.kind() == "python threads"
    assert run_fill(workers)


def test_from_many_python_threads_at_once() -> None:
    results: list[bool] = []
    callers = [threading.Thread(target=lambda: results.append(all(run_fill(2) for _ in range(20)))) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [True] * 6


def test_an_exhausted_pool_does_not_hang(python_threads: None) -> None:
    test_from_many_python_threads_at_once()


def _in_child(queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    queue.put((run_fill(2), threads.kind()))


@pytest.mark.skipif(sys.platform != "linux", reason="fork is a Linux matter")
def test_after_fork() -> None:
    torch.randn(512, 512) @ torch.randn(512, 512)  # torch's pool exists in the parent
    assert run_fill(2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    ok, kind = queue.get(timeout=60)
    child.join(60)
    assert ok and kind == "python threads"
    assert run_fill(2), "the parent still works"


class _KernelDataset(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> bool:
        return run_fill()


def test_in_loader_workers() -> None:
    assert run_fill(2)
    loader = torch.utils.data.DataLoader(_KernelDataset(), num_workers=2, batch_size=None)
    assert all(bool(ok) for ok in loader)
