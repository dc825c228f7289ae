"""Rows: every token once an epoch, a fixed order, documents told apart."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.training.data.rows import IGNORE, Feeder, PackedRows, StreamRows, best_fit
from anymamba.training.data.tokenfile import TokenFile


def stream(total: int, starts: list[int]) -> TokenFile:
    return TokenFile(np.arange(total, dtype=np.uint16), np.asarray(starts), total)


def test_rows_of_a_stream_are_consecutive_and_labels_one_ahead() -> None:
    rows = StreamRows(stream(1000, [0, 100, 105]), 32, seed=1)
    for epoch in range(3):
        ids, labels, documents = rows.row(epoch, 4)
        assert list(labels) == list(ids + 1) and list(np.diff(ids)) == [1] * 31
        assert [int(document) for document in documents] == [1 + sum(i >= s for s in (100, 105)) for i in ids]
    assert rows.row(0, 0)[0][0] != rows.row(1, 0)[0][0], "every epoch cuts elsewhere"


def test_an_epoch_has_every_row_once_and_processes_share_them() -> None:
    rows = StreamRows(stream(1000, [0]), 16, seed=1)
    feeder = Feeder(rows, 4, seed=9)
    steps = rows.count // 4
    firsts = [int(row[0]) for step in range(steps) for row in feeder.batch(step).input_ids]
    assert len(set(firsts)) == 4 * steps
    whole = Feeder(rows, 4, seed=9).batch(7).input_ids
    parts = [Feeder(rows, 4, seed=9).batch(7, rank, 2).input_ids for rank in (0, 1)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_batch_is_a_function_of_its_step_alone() -> None:
    rows = StreamRows(stream(500, [0]), 16, seed=1)
    forward = [Feeder(rows, 8, seed=2).batch(step).input_ids for step in range(20)]
    feeder = Feeder(rows, 8, seed=2)
    backward = [feeder.batch(step).input_ids for step in reversed(range(20))]
    assert all(torch.equal(one, other) for one, other in zip(forward, reversed(backward)))


def test_rows_within_one_document_need_no_seq_idx() -> None:
    batch = Feeder(StreamRows(stream(1000, [0, 500]), 16, seed=0), 62, seed=0).batch(0)
    assert batch.seq_idx is not None and batch.seq_idx.dtype == torch.int32 and int(batch.seq_idx.max()) == 1
    inside = next(i for i in range(62) if not batch.seq_idx[i].any())
    assert batch.part(inside, inside + 1).seq_idx is None


def test_packed_examples_are_whole_and_only_answers_have_labels() -> None:
    learn = np.array([0, 0, 1, 1, 0, 0, 0, 1, 0, 1], dtype=bool)
    file = TokenFile(np.arange(10, dtype=np.uint16), np.array([0, 4, 8]), 10, learn)
    rows = PackedRows(file, 8, pad=99)
    assert rows.count == 1
    ids, labels, documents = rows.row(0, 0)
    seen = {}
    for document in sorted(set(documents)):
        at = documents == document
        seen[tuple(ids[at])] = [int(x) for x in labels[at]]
    assert seen == {(0, 1, 2): [IGNORE, 2, 3], (4, 5, 6): [IGNORE, IGNORE, 7], (8,): [9], (99,): [IGNORE]}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60))
def test_best_fit_loses_nothing_and_overfills_nothing(sizes: list[int]) -> None:
    bins = best_fit(sizes, 20)
    assert sorted(index for items in bins for index in items) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in items) <= 20 for items in bins)
    # no two bins could be one, or best fit was not done
    fill = sorted(sum(sizes[i] for i in items) for items in bins)
    assert len(fill) < 2 or fill[0] + fill[1] > 20


def test_documents_in_one_row_do_not_leak() -> None:
    torch.manual_seed(0)
    model = LanguageModel(MambaConfig(vocab_size=104, hidden_size=16, num_hidden_layers=2, state_size=4)).eval()
    learn = np.ones(12, dtype=bool)
    tokens = np.array([50, 3, 4, 5, 50, 9, 8, 7, 50, 1, 2, 6], dtype=np.uint16)
    rows = PackedRows(TokenFile(tokens, np.array([0, 4, 8]), 12, learn), 16, pad=0)
    ids, _, documents = (torch.from_numpy(array)[None] for array in rows.row(0, 0))
    together = model(ids, seq_idx=documents.int()).logits[0]
    for document in range(3):
        at = documents[0] == document
        alone = model(ids[:, at]).logits[0]
        assert torch.allclose(together[at], alone, atol=1e-5)
