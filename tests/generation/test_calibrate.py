"""Four-bit numbers that fit a text: better ranges, errors made good, and what `anymamba quantize --calibrate` does with it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.training.runs import tiny_model

from anymamba.cli import main
from anymamba.errors import AnymambaError
from anymamba.generation.calibrate import Calibration, windows
from anymamba.generation.quantize import quantize_int4
from anymamba.generation.rounding import compensated, nearest
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.reference import blocks


def test_the_best_range_is_better_than_the_whole_one() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    weight[:, ::32] *= 4  # one outlier in every block
    errors = [(blocks.unpacked(packed, 256) - weight).square().mean() for packed in (nearest(weight), blocks.packed(weight, "q4_1"))]
    assert errors[0] < 0.95 * errors[1]


def test_errors_are_made_good_where_inputs_go_together() -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 128)
    inputs = torch.randn(2000, 16) @ torch.randn(16, 128) + 0.1 * torch.randn(2000, 128)
    inputs[:, 7] = 0.0  # a direction that the text never takes
    outputs = inputs @ weight.t()
    off = [
        (inputs @ blocks.unpacked(packed, 128).t() - outputs).square().mean()
        for packed in (compensated(weight, inputs.t() @ inputs), nearest(weight))
    ]
    assert off[0] < 0.2 * off[1]


@pytest.mark.parametrize("config", [
    MambaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=2),
    Mamba2Config(vocab_size=64, hidden_size=64, num_hidden_layers=2, num_heads=8, head_dim=16, state_size=16, n_groups=1),
], ids=["mamba", "mamba2"])  # fmt: skip
def test_a_calibrated_model_is_nearer(config: MambaConfig) -> None:
    torch.manual_seed(0)
    whole = LanguageModel(config).requires_grad_(False).eval()
    for name, parameter in whole.named_parameters():
        if parameter.dim() == 2 and "A_log" not in name:
            parameter.mul_(3)
    ids = torch.randint(8, (4, 256))
    want = whole(ids).logits
    model = copy.deepcopy(whole)
    seen: list[tuple[int, int]] = []
    model = quantize_int4(model, Calibration(model, ids, lambda *place: seen.append(place)))
    plain = quantize_int4(copy.deepcopy(whole))
    assert (model(ids).logits - want).norm() < 0.9 * (plain(ids).logits - want).norm()
    assert seen == [(1, 2), (2, 2)]


def test_a_text_that_is_too_short() -> None:
    with pytest.raises(AnymambaError, match="a.txt has 5 tokens"):
        windows([1] * 5, 1000, "a.txt")
    assert windows([1] * 300, 1000, "a.txt").shape == (1, 300)
    assert windows([1] * 5000, 2000, "a.txt").shape == (3, 512)


def test_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, text = str(tiny_model(tmp_path / "model")), tmp_path / "a.txt"
    text.write_text("a text. " * 300)
    assert main(["quantize", model, str(tmp_path / "int4"), "--calibrate", str(text), "--calibrate-tokens", "1024"]) == 0
    assert "1024 tokens" in capsys.readouterr().err
    config = json.loads((tmp_path / "int4" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "anymamba"
    assert main(["generate", str(tmp_path / "int4"), "-p", "a", "-m", "3"]) == 0
    capsys.readouterr()
    assert main(["eval", model, str(text), "--compare-widths", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [entry["width"] for entry in report["widths"]] == ["float32", "bfloat16", "int8", "int4"]
    sizes = [entry["weight_bytes"] for entry in report["widths"]]
    assert sizes[0] > sizes[1] > sizes[3] and sizes[0] > sizes[2] > sizes[3]
    assert main(["eval", model, str(text), "--compare-widths"]) == 0
    assert capsys.readouterr().out.count("bits per byte, perplexity") == 4
    assert main(["eval", model, str(text), "--quantize", "int4"]) == 0
