"""A wrong backend gets no time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anymamba.backends.torch import selective_scan
from anymamba.bench import gate, runner
from anymamba.bench.cases.case import Case, Contender, Contest, Setting
from anymamba.bench.gate import Gate
from anymamba.bench.timing import QUICK

SETTING = Setting(torch.device("cpu"), "cpu")


def result_of(tiny: tuple[Case, ...], name: str, setting: Setting = SETTING) -> dict[str, Any]:
    return runner.run_case(next(case for case in tiny if case.name == name), setting, QUICK)


def wrong_backend(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> None:
    """The cpu backend's scan becomes plain PyTorch's with something wrong; its self-check, which would see it, is off."""
    from anymamba.backends import cpu, selfcheck

    module = __import__(cpu.OPS["selective_scan_fn"], fromlist=["x"])
    right = selective_scan.selective_scan_fn
    monkeypatch.setattr(cpu, "available", lambda: (True, ""))
    monkeypatch.setattr(module, "selective_scan_fn", lambda *given, **options: spoil(right(*given, **options)))
    monkeypatch.setattr(module, "supports", lambda call: (True, ""))
    monkeypatch.setattr(selfcheck, "passed", lambda *_: (True, "off"))


@pytest.mark.parametrize("name", ["scan/tiny/forward", "scan/tiny/forward+backward"])
def test_a_wrong_result_is_not_timed(name: str, tiny: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_backend(monkeypatch, lambda out: out * 1.001)
    result = result_of(tiny, name)
    assert not result["gate"]["ok"]
    assert "off by" in result["gate"]["why"]
    assert "ours" not in result and "peers" not in result


def test_a_wrong_gradient_is_not_timed(tiny: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
            return dy / 2

    wrong_backend(monkeypatch, Halved.apply)
    assert result_of(tiny, "scan/tiny/forward")["gate"]["ok"]
    result = result_of(tiny, "scan/tiny/forward+backward")
    assert not result["gate"]["ok"] and "gradient of" in result["gate"]["why"]


def test_a_crash_is_a_red_gate_with_its_text(tiny: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(out: Any) -> Any:
        raise ValueError("no such register")

    wrong_backend(monkeypatch, crash)
    result = result_of(tiny, "scan/tiny/forward")
    assert not result["gate"]["ok"]
    assert "no such register" in result["gate"]["why"]


def test_not_a_number_is_wrong() -> None:
    exact = {"y": torch.ones(3, dtype=torch.float64)}
    good = {"y": torch.ones(3)}
    bad = {"y": torch.tensor([1.0, float("nan"), 1.0])}
    assert gate.compare(good, good, exact).ok
    assert not gate.compare(bad, good, exact).ok
    assert not gate.compare({"y": torch.ones(2)}, good, exact).ok


def test_twice_the_error_of_plain_pytorch_is_allowed_and_no_more() -> None:
    exact = {"y": torch.ones(1, dtype=torch.float64)}
    plain = {"y": torch.tensor([1.0001])}
    assert gate.compare({"y": torch.tensor([1.000199])}, plain, exact).ok
    assert not gate.compare({"y": torch.tensor([1.00021])}, plain, exact).ok


def test_a_broken_peer_is_named_and_no_failure() -> None:
    def broken() -> Contender:
        raise RuntimeError("its kernel is missing")

    def breaks_when_run() -> Any:
        raise MemoryError("too large")

    contenders = {
        "a": broken,
        "b": "not installed",
        "c": lambda: Contender(breaks_when_run),
        "d": lambda: Contender(lambda: None),
        "e": broken,
    }
    contest = Contest(Contender(lambda: None), lambda: Gate(True, ""), contenders, slow=frozenset({"e"}))
    case = Case("x", "cpu", lambda setting: contest)
    result = runner.run_case(case, SETTING, QUICK)
    assert result["gate"]["ok"]
    assert "its kernel is missing" in result["peers"]["a"]["missing"]
    assert result["peers"]["b"]["missing"] == "not installed"
    assert "too large" in result["peers"]["c"]["missing"]
    assert result["peers"]["d"]["ratio"] > 0
    assert "--slow" in result["peers"]["e"]["missing"], "a slow peer is not even made"


def test_plain_pytorch_itself_can_be_wrong() -> None:
    exact = {"y": torch.ones(1, dtype=torch.float64)}
    wrong = {"y": torch.tensor([1.01])}
    assert not gate.compare(wrong, wrong, exact).ok
