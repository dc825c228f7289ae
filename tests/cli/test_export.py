"""anymamba export, and the verbs that take a GGUF file where they take a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.training.runs import tiny_model

from anymamba.cli import main

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model's folder and its GGUF file."""
    folder = tmp_path_factory.mktemp("export")
    model, file = tiny_model(folder / "model"), folder / "a.gguf"
    assert main(["export", str(model), str(file), "--type", "F32"]) == 0
    return str(model), str(file)


def test_a_file_says_what_its_folder_says(exported: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for name in exported:
        assert main(["generate", name, "-p", "a text", "-m", "12", "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["results"][0]["text"])
    assert texts[0] == texts[1] and texts[0]


def test_eval_of_a_file(exported: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a text. " * 40)
    bits = []
    for name in exported:
        assert main(["eval", name, str(tmp_path / "a.txt"), "--json"]) == 0
        bits.append(json.loads(capsys.readouterr().out)["files"][0]["bits_per_byte"])
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)


def test_a_plan_and_a_saved_state(exported: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", exported[1], "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dtype"] == "GGUF" and 0 < plan["weight_bytes"] < Path(exported[1]).stat().st_size
    state = str(tmp_path / "a.state")
    assert main(["generate", exported[1], "-p", "a text", "-m", "0", "--save-state", state]) == 0
    assert main(["generate", exported[1], "--load-state", state, "-m", "3"]) == 0


def test_an_existing_file_stays(exported: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(exported[1]).read_bytes()
    assert main(["export", *exported, "--type", "Q8_0"]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path(exported[1]).read_bytes() == before


def test_a_model_of_another_kind_is_refused(exported: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from anymamba.models.gguf.write import write
    from anymamba.models.lm import LanguageModel
    from anymamba.models.mamba3 import Mamba3Config

    model = LanguageModel(Mamba3Config(vocab_size=16, hidden_size=32, num_hidden_layers=1))
    with pytest.raises(NotImplementedError, match="mamba3"):
        write(model, model.state_dict(), None, tmp_path / "a.gguf", "F16")
    assert not list(tmp_path.iterdir())
