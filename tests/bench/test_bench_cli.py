"""The verb: one JSON document, the table, exit codes, both languages."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from anymamba.bench import timing
from anymamba.bench.cases import registry
from anymamba.bench.cases.case import FLOOR, Case
from anymamba.bench.minute import Minute
from anymamba.cli import main

NUMBERS = {"median", "low", "high", "runs", "units"}


@pytest.fixture(scope="module")
def document() -> dict:
    """One run of every tiny case, by the torch backend."""
    import contextlib
    import io

    from tests.bench.conftest import tiny_cases

    kept, effort_for = registry.every_case, timing.effort_for
    made = tiny_cases()
    registry.every_case = lambda: made  # type: ignore[assignment]
    timing.effort_for = lambda device, quick: timing.Effort(seconds=0.01, least=2, most=3)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            assert main(["bench", "--device", "cpu", "--backend", "torch", "--quick", "--json", "--lang", "en"]) == 0
            first = json.loads(out.getvalue())
            assert [result["case"] for result in first["results"]] == ["scan/tiny/forward"]
            out.truncate(0), out.seek(0)
            assert main(["bench", "--device", "cpu", "--backend", "torch", "--json", "--lang", "en"]) == 0
    finally:
        registry.every_case, timing.effort_for = kept, effort_for  # type: ignore[assignment]
    return json.loads(out.getvalue())


def test_document_names_machine_and_case(document: dict) -> None:
    assert {"anymamba", "date", "machine", "peers", "official", "device", "backend", "quick", "results"} == set(document)
    assert {"cpu", "cores", "torch", "system"} <= set(document["machine"])
    assert document["device"] == "cpu" and document["backend"] == "torch"
    assert len(document["results"]) == 7


def test_every_time_stands_behind_a_green_gate(document: dict) -> None:
    for result in document["results"]:
        assert result["gate"]["ok"], result
        assert set(result["ours"]) >= NUMBERS
        assert 0 < result["ours"]["low"] <= result["ours"]["median"] <= result["ours"]["high"]
        assert set(result["backends"].values()) <= {"torch"}, "the choice of the gate's own runs must not be reported"
        for values in result["peers"].values():
            assert set(values) == {"missing"} or NUMBERS | {"ratio", "ratio_fastest", "at_most", "met"} == set(values)


def test_ratio_and_target(document: dict) -> None:
    results = {result["case"]: result for result in document["results"]}
    step = results["model/tiny/forward+backward"]
    floor = step["peers"][FLOOR]
    assert floor["met"] is False
    assert floor["ratio"] == pytest.approx(step["ours"]["median"] / floor["median"])
    assert results["scan/tiny/forward"]["peers"]["mamba-ssm on H100"]["ratio"] < 1e-3
    assert results["model/tiny/decode"]["ours"]["units"] == 16
    assert results["model/tiny/decode"]["stepper"]
    assert results["model/tiny/decode"]["of_copy_bandwidth"] > 0


def test_table_and_progress(tiny: tuple[Case, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cpu", "--backend", "torch", "--only", "scan/tiny/forward", "--quick"]) == 0
    out, err = capsys.readouterr()
    assert "anymamba (torch)" in out and "mamba-ssm on H100" in out
    assert err.startswith("scan/tiny/forward ...")


def test_chinese_table(tiny: tuple[Case, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cpu", "--backend", "torch", "--only", "step/*", "--lang", "zh"]) == 0
    assert "中位数" in capsys.readouterr().out
    main(["bench", "--device", "cpu", "--only", "step/*", "--list", "--lang", "en"])


def test_exit_codes(tiny: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cpu", "--only", "no such case"]) == 2
    assert main(["bench", "--device", "cpu", "--backend", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(["bench", "--device", "cpu", "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "scan/tiny/forward"

    from anymamba.backends.torch import selective_scan

    right = selective_scan.selective_scan_fn
    monkeypatch.setattr(selective_scan, "selective_scan_fn", lambda *given, **options: right(*given, **options) + 1)
    assert main(["bench", "--device", "cpu", "--backend", "torch", "--only", "scan/tiny/forward", "--quick"]) == 1
    assert "not timed" in capsys.readouterr().out


def test_quick_keeps_to_its_minute(tiny: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    minute = Minute(10.0)
    short, long = (Case(name, "cpu", tiny[0].build, seconds=seconds) for name, seconds in (("short", 3.0), ("long", 9.0)))
    assert minute.has_room(short) and not Minute(8.0).has_room(long)
    minute.start -= 6.0  # the machine took twice as long as planned
    assert not minute.has_room(Case("another", "cpu", tiny[0].build, seconds=2.5))
    assert minute.has_room(Case("small", "cpu", tiny[0].build, seconds=1.0))
    monkeypatch.setattr("anymamba.bench.minute.Minute", lambda: minute)
    assert main(["bench", "--device", "cpu", "--backend", "torch", "--only", "scan/tiny/forward", "--quick", "--lang", "en"]) == 0
    assert "no room in the minute of --quick for: scan/tiny/forward" in capsys.readouterr().err


def test_the_cases_of_quick_fit_a_minute_on_two_cores() -> None:
    quick = registry.select(torch.device("cpu"), quick=True)
    planned = [case.seconds for case in quick]
    within = [case.name for case, total in zip(quick, itertools.accumulate(planned)) if total <= 54]
    assert len(within) >= 8 and "mamba-130m/B1-fp32/decode" in within
