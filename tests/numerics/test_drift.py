"""Two sides of one model: rounding is told from faults, positions and margins are right, any length fits in memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anymamba.cli import main
from anymamba.errors import AnymambaError
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.tokenizer import byte_tokenizer
from anymamba.numerics import drift
from anymamba.numerics.sides import Side, check_pair, parse_side

EPS = torch.finfo(torch.float32).eps / 2


def make_model(family: str) -> LanguageModel:
    sizes = {
        "vocab_size": byte_tokenizer().vocab_size,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "initializer_range": 0.3,
    }
    if family == "mamba":
        return LanguageModel(MambaConfig(**sizes)).eval()
    return LanguageModel(Mamba2Config(**sizes, num_heads=6, head_dim=16, n_groups=1, state_size=24)).eval()


@pytest.fixture(params=["mamba", "mamba2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return make_model(request.param)


@pytest.mark.parametrize("sides", [("cpu", "torch"), ("scan", "step"), ("cpu:step", "torch:float64")])
def test_backends_and_paths_agree_over_a_long_text(model: LanguageModel, sides: tuple[str, str]) -> None:
    a, b = map(parse_side, sides)
    measured = drift.teacher_forced(model, a, b, drift.sampled_text(model), 3000)
    assert measured.tokens == 3000 and len(measured.windows) == math.ceil(3000 / drift.PIECE)
    assert 0 < measured.largest < 1e-3
    assert abs(measured.slope) < 1e-3
    ok, words = drift.verdict(measured, drift.greedy(model, a, b, torch.zeros(1, dtype=torch.long), 100), EPS)
    assert ok, words


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.slow
def test_100_000_tokens(family: str) -> None:
    """cpu, torch, the reference and step by step against one pass, no growth with position. For a trained model and with Triton's
    interpreter: benchmarks/long_text.py."""
    model = make_model(family)
    text = torch.cat([piece for piece, _ in zip(drift.sampled_text(model), range(100_000 // drift.PIECE + 1))])
    for pair in (("cpu", "torch"), ("scan", "step"), ("cpu:whole", "cpu:step"), ("cpu", "reference")):
        a, b = map(parse_side, pair)
        measured = drift.teacher_forced(model, a, b, drift.pieces_of(text), 100_000)
        assert measured.largest < 1e-3 and abs(measured.slope) < 2e-4, (pair, measured.largest, measured.slope)


def test_a_fault_is_called_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("mamba")
    from anymamba.backends.torch import selective_scan

    sound = selective_scan.selective_scan_fn

    def decays_too_slowly(u: Tensor, delta: Tensor, A: Tensor, *rest: Tensor, **options: Any) -> Any:  # type: ignore[no-untyped-def]
        return sound(u, delta, A * 0.9, *rest, **options)

    monkeypatch.setattr(selective_scan, "selective_scan_fn", decays_too_slowly)
    from anymamba.backends import dispatch

    dispatch.forget()
    try:
        measured = drift.teacher_forced(model, parse_side("cpu"), parse_side("torch"), drift.sampled_text(model), 1024)
    finally:
        monkeypatch.undo()
        dispatch.forget()
    ok, words = drift.verdict(measured, None, EPS)
    assert not ok and "fault" in words


@pytest.mark.parametrize("a", ["cpu", "torch-chunked", "torch-reference"])
def test_step_by_step_equals_one_pass_over_the_whole_text(model: LanguageModel, a: str) -> None:
    text = drift.pieces_of(torch.arange(1500) * 7 % 256)
    measured = drift.teacher_forced(model, parse_side(f"{a}:whole"), parse_side(f"{a}:step"), text, 1500)
    assert measured.tokens == 1500 and 0 < measured.largest < 1e-3
    assert [window.state_norm is None for window in measured.windows] == [True, True, False]
    assert measured.layer_differences and max(measured.layer_differences) < 1e-4


def test_names_of_sides() -> None:
    assert parse_side("torch-reference").backend == "reference" and parse_side("torch-chunked").backend == "torch"
    side = parse_side("cpu:bf16:step:resync-64:residual-dtype", torch.float64)
    assert (side.backend, side.dtype, side.mode, side.resync, side.residual_in_fp32) == ("cpu", torch.bfloat16, "step", 64, False)
    assert parse_side("step", torch.float64).dtype is torch.float64
    with pytest.raises(AnymambaError, match="resync belongs to step"):
        parse_side("scan:resync-64")
    with pytest.raises(AnymambaError, match="compiles"):
        check_pair(parse_side("triton"), Side("triton-interpreted", "triton"))


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_interpreted_triton_is_a_side(family: str, tmp_path: Path) -> None:
    """In a process of its own: whether kernels are compiled or interpreted is settled when they are defined."""
    pytest.importorskip("triton")
    folder = tmp_path / "model"
    hub.save(make_model(family), folder, tokenizer=byte_tokenizer())
    text = tmp_path / "text.txt"
    text.write_text("numbers in long texts " * 4, "utf-8")
    words = ["verify", str(folder), "--against", "torch-reference", "triton-interpreted", "--tokens", "80", "--greedy", "0"]
    run = subprocess.run(
        [sys.executable, "-m", "anymamba", *words, "--text", str(text), "--device", "cpu", "--json"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)["teacher_forced"]
    assert found["tokens"] == 80 and 0 < found["largest_logit_difference"] < 1e-3


def test_resynchronised_steps_read_the_same_text(model: LanguageModel) -> None:
    text = drift.pieces_of(torch.arange(700) * 11 % 256)
    measured = drift.teacher_forced(model, parse_side("cpu:scan"), parse_side("cpu:step:resync-50"), text, 700)
    assert measured.tokens == 700 and 0 < measured.largest < 1e-3


def test_a_coarse_state_and_a_coarse_residual_show(model: LanguageModel) -> None:
    def largest(b: str) -> float:
        text = drift.pieces_of(torch.arange(300) * 11 % 256)
        return drift.teacher_forced(model, parse_side("cpu:float32:step"), parse_side(b), text, 300).largest

    assert largest("cpu:float32:step:state-bfloat16") > 10 * largest("torch:float32:step")
    assert largest("cpu:bfloat16:residual-dtype") != largest("cpu:bfloat16:residual-float32")


def test_growth_is_told_from_noise() -> None:
    noise = [1.0, 1.3, 0.9, 1.2, 1.1, 0.8, 1.2, 1.0]
    for growth, expected in ((0.0, False), (0.5, True)):
        windows = [drift.Window(i + 1, value + growth * i, 0.0, 0, 1.0, 0.0) for i, value in enumerate(noise)]
        assert drift.Drift("a", "b", 8, windows).grows is expected


def test_nan_is_a_fault() -> None:
    sound = drift.Window(5, 1e-6, 0.0, 0, 1.0, 0.0)
    later = drift.Drift("a", "b", 10, [sound, drift.Window(10, math.nan, 0.0, 0, 1.0, 0.0), sound], logit_scale=1.0)
    assert not drift.verdict(later, None, EPS)[0]
    assert json.loads(json.dumps(later.as_dict(), allow_nan=False))["largest_logit_difference"] == "nan"
    measured = drift.Drift("a", "b", 10, [drift.Window(10, math.nan, 0.0, 0, 1.0, 0.0)], logit_scale=1.0)
    assert not drift.verdict(measured, None, EPS)[0]


def test_a_clear_choice_that_is_overturned_is_a_fault_and_a_close_one_is_rounding() -> None:
    measured = drift.Drift("a", "b", 10, [drift.Window(10, 1e-5, 0.0, 0, 1.0, 0.0)], logit_scale=1.0)
    clear = drift.Divergence(5, 4, 1, 2, margin_a=0.5, margin_b=0.5, logit_difference=1e-5)
    close = drift.Divergence(5, 4, 1, 2, margin_a=1e-6, margin_b=2e-6, logit_difference=1e-5)
    assert drift.verdict(measured, clear, EPS)[0] is False
    ok, words = drift.verdict(measured, close, EPS)
    assert ok and "token 4" in words


def test_lower_precision_diverges_where_the_choice_is_close(model: LanguageModel) -> None:
    divergence = drift.greedy(
        model, parse_side("float32"), parse_side("bfloat16"), torch.zeros(1, dtype=torch.long), 400
    )
    if divergence.position is None:
        pytest.skip("the two texts are the same")
    assert divergence.token_a != divergence.token_b
    assert 0 < divergence.margin_a <= 2 * divergence.logit_difference


def test_slope_of_a_line() -> None:
    assert drift.slope([0, 1, 2, 3], [1.0, 3.0, 5.0, 7.0]) == pytest.approx(2.0)
    assert drift.slope([5], [1.0]) == 0.0
    assert drift.line([0, 1, 2], [1.0, 3.0, 5.0]) == pytest.approx((2.0, 0.0))
    assert drift.line([0, 1], [1.0, 3.0])[1] is None


def test_an_unknown_side_lists_what_there_is() -> None:
    with pytest.raises(AnymambaError, match="nonsense") as caught:
        parse_side("cpu:nonsense")
    assert "torch" in str(caught.value) and "bfloat16" in str(caught.value)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    hub.save(make_model("mamba"), folder, tokenizer=byte_tokenizer())
    plot = tmp_path / "drift.svg"
    words = [
        "verify",
        str(folder),
        "--against",
        "cpu",
        "torch",
        "--tokens",
        "1500",
        "--greedy",
        "50",
        "--device",
        "cpu",
    ]
    assert main([*words, "--json", "--plot", str(plot)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] and document["teacher_forced"]["tokens"] == 1500 and document["greedy"]["tokens"] >= 1
    assert plot.read_text("utf-8").startswith("<svg")
    assert main(words) == 0
    assert "rounding" in capsys.readouterr().out
    assert main(["verify", str(folder)]) == 2
    assert "--against" in capsys.readouterr().err
