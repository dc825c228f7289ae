"""Tiny cases in place of the registry, so that a whole run of the bench takes a second."""

from __future__ import annotations

import functools

import pytest
import torch

from anymamba.backends import dispatch
from anymamba.backends.opspec import SPECS
from anymamba.bench.cases import model_cases, op_cases, registry
from anymamba.bench.cases.case import Case, Target
from anymamba.models.mamba import MambaConfig


def tiny_cases() -> tuple[Case, ...]:
    fp32 = torch.float32
    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)
    contest = functools.partial(op_cases.contest, SPECS["selective_scan_fn"], {"batch": 1, "length": 20, "dim": 24, "d_state": 4}, fp32)
    step = functools.partial(
        op_cases.contest, SPECS["selective_state_update"], {"batch": 1, "nheads": 0, "headdim": 24, "d_state": 4}, fp32, "forward"
    )
    model = functools.partial(model_cases.whole_model, config, 1, 24, fp32)
    floor = (Target("matrix products alone", 1e-9),)  # nobody is that fast: a target that must be reported as missed
    return (
        Case("scan/tiny/forward", "cpu", functools.partial(contest, "forward"), quick=True, official_ms=1e9),
        Case("scan/tiny/forward+backward", "cpu", functools.partial(contest, "forward+backward")),
        Case("scan/tiny/backward", "cpu", functools.partial(contest, "backward")),
        Case("step/tiny/forward", "cpu", step),
        Case("model/tiny/forward", "cpu", functools.partial(model, "forward")),
        Case("model/tiny/forward+backward", "cpu", functools.partial(model, "forward+backward"), targets=floor),
        Case("model/tiny/decode", "cpu", functools.partial(model, "decode")),
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[Case, ...]:
    made = tiny_cases()
    monkeypatch.setattr(registry, "every_case", lambda: made)
    monkeypatch.setenv("ANYMAMBA_LANG", "en")
    dispatch.forget()
    return made
