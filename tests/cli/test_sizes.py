"""What models take, told before anything is allocated."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from tests.training.runs import tiny_model

from anymamba.cli import main
from anymamba.generation.quantize import quantize_int4, quantize_int8
from anymamba.models import FAMILIES, families, hub
from anymamba.models.footprint import footprint
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import SIZES, config_of_size


def stored(model: LanguageModel) -> int:
    """Bytes of every parameter and buffer that the model holds."""
    tensors = {id(t): t for module in model.modules() for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_footprint_is_what_the_model_holds(family: str) -> None:
    config = config_of_size("tiny", family, 264)
    taken = footprint(config)
    model = LanguageModel(config)
    assert taken.weights(4) == stored(model) == 4 * taken.parameters
    cache = model.make_cache(1)
    held = [tensor for layer in cache.layers for tensor in layer.tensors().values()]
    assert taken.state == sum(t.numel() * 4 for t in held)
    # the scales of the rows are all that is left out
    assert taken.weights(4, "int4") == pytest.approx(stored(quantize_int4(copy.deepcopy(model))), rel=0.03)
    assert taken.weights(4, "int8") == pytest.approx(stored(quantize_int8(model)), rel=0.03)


def test_the_verb_lists_every_size_of_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sizes", "--json", "--vocab", "50280", "--device", "cpu"]) == 0
    rows = json.loads(capsys.readouterr().out)["sizes"]
    assert {(row["model"], row["size"]) for row in rows} == {
        (name, size) for name in FAMILIES for size in families.family(name).sizes
    }
    published = {row["size"]: row["parameters"] for row in rows if row["model"] == "mamba"}
    assert published["130m"] == 129_135_360 and published["2.8b"] == pytest.approx(2.77e9, rel=0.01)
    for row in rows:
        # a tied head becomes a copy of its own when it is quantised, so int8 saves nothing where the vocabulary is most of the model
        assert max(row["run_int8_bytes"], row["run_16_bit_bytes"]) < row["run_float32_bytes"] < row["train_bytes"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_fits_eighty_columns(language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("anymamba.language._chosen", language)
    assert main(["sizes", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "…" not in told and all(size in told for size in SIZES)


def test_a_dry_run_of_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()  # not a weight is read
    (tmp_path / "prompts.txt").write_text("one\ntwo\n\nthree\n")
    words = ["generate", str(folder), "--plan", "--device", "cpu"]
    assert main([*words, "--json", "--prompts", str(tmp_path / "prompts.txt"), "--dtype", "bfloat16"]) == 0
    plan = json.loads(capsys.readouterr().out)
    taken = footprint(hub.load_config(folder))
    assert plan["weight_bytes"] == 2 * taken.parameters and plan["state_bytes"] == 3 * taken.state and plan["fits"] is True
    assert main(words) == 0
    assert "it fits" in capsys.readouterr().out
    monkeypatch.setattr("anymamba.training.machine.memory.left", lambda device: 1000)
    assert main(words) == 1
    assert "it does not fit: 0 MiB are free" in capsys.readouterr().out
