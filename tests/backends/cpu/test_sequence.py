"""A sequence of kernels: its scratch belongs to the threads of this run, not to those of the time when it was laid out."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from anymamba.backends.cpu.decode import sequence
from anymamba.backends.cpu.jit import compile
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import Kernel
from anymamba.backends.cpu.jit.values import I64
from anymamba.generation.stepper import choose_stepper
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba2 import Mamba2Config

TASKS, ROOM = 400, 1 << 14


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _where(k: Kernel) -> None:
    """out[task] = the address of this worker's scratch, after enough work that several workers get a task."""
    out, scratch = k.pointer("out", "int64"), k.scratch(ROOM)
    with k.loop(0, 50), k.loop(0, ROOM, k.width) as i:
        scratch.store(i, k.vector(1.0))
    k.builder.store(k.builder.ptrtoint(scratch.address, I64), out.at(k.task).address)


def test_scratch_grows_with_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []
    empty = torch.empty

    def recording(*shape: int, **options: object) -> torch.Tensor:
        memory = empty(*shape, **options)
        taken.append((memory.data_ptr(), memory.data_ptr() + memory.nbytes))
        return memory

    where, out = Program("test_where", _where), torch.zeros(TASKS, dtype=torch.int64)
    chain = sequence.Sequence()
    chain.add(where, TASKS, out=out)
    monkeypatch.setattr(torch, "empty", recording)
    monkeypatch.setattr(compile, "_local", threading.local())  # memory that an earlier run of this process left would not be seen
    torch.set_num_threads(1)
    chain.run()
    assert len(out.unique()) == 1
    torch.set_num_threads(4)
    for _ in range(20):
        chain.run()
        for address in out.unique().tolist():
            assert any(start <= address and address + 4 * ROOM <= end for start, end in taken), "scratch outside its memory"
        if len(out.unique()) > 1:
            return
    pytest.fail("one thread alone took every task, twenty times")


@pytest.mark.parametrize("threads", [(1, 4), (4, 1), (2, 7)], ids=str)
def test_threads_change_between_tokens(threads: tuple[int, int]) -> None:
    model = LanguageModel(Mamba2Config(vocab_size=301, hidden_size=256, num_hidden_layers=2, num_heads=8, n_groups=1, eos_token_id=None))
    tokens = torch.arange(0, 300, 25)

    def logits(counts: list[int]) -> torch.Tensor:
        stepper = choose_stepper(model, model.make_cache(1))
        rows = []
        for token, count in zip(tokens, counts):
            torch.set_num_threads(count)
            rows.append(stepper.step(token[None]).clone())
        return torch.cat(rows)

    with torch.inference_mode():
        steady = logits([2] * len(tokens))
        changed = logits([threads[index // 3 % 2] for index in range(len(tokens))])
    assert torch.equal(steady, changed)
