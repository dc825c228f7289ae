"""Wrong usage ends with 2 in every verb, before or after the command line was parsed, and says what is wrong and what was meant."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

import anymamba
from anymamba import cli
from anymamba.cli import VERBS, main
from anymamba.cli.parser import Parser
from anymamba.errors import AnymambaError
from anymamba.nearest import nearest
from anymamba.training.run.config import read_toml

MODEL = "MODEL"
"""Stands for the folder of a small model."""

WRONG = [
    # noticed by the parser
    ("train a.txt --stepz 5", "there is no option --stepz; the nearest is --steps"),
    ("train a.txt --batch-size 8", "the nearest is --micro-batch"),
    ("train --steps many", "--steps must be a whole number, not 'many'"),
    ("train --model mamba4", "the nearest is 'mamba'"),
    ("generate --promt x", "there is no option --promt; the nearest is --prompt"),
    ("generate MODEL -m -5", "-m -5: must be a number of tokens"),
    ("generate MODEL --seed -1", "--seed: '-1' is no whole number"),
    ("generate MODEL --threads 0", "--threads"),
    ("chat MODEL --dtype fp16", "the nearest is 'float16'"),
    ("eval MODEL --window 1 a.txt", "--window"),
    ("eval", "missing: model"),
    ("quantize MODEL MODEL", "exists"),
    ("quantize MODEL OUT --width int8 --calibrate TEXT", "--width int4"),
    ("eval MODEL TEXT --compare-widths --quantize int8", "--compare-widths"),
    ("merge MODEL a", "missing: out"),
    ("merge MODEL a MODEL", "exists"),
    ("train TEXT --from MODEL --lora 0", "--lora 0: the rank must be at least 1"),
    ("train TEXT --from MODEL --lora 4 --lora-targets q_proj", "it has: in_proj"),
    ("export MODEL a.bin", "must end in .gguf"),
    ("plot", "missing: RUN"),
    ("plot run --smooth 2", "--smooth: '2' is no number from 0 and below 1"),
    ("plot run -x time", "there is no 'time'; there are: step, tokens, seconds"),
    ("backends --dtpye float32", "the nearest is --dtype"),
    ("sizes --model mamba9", "the nearest is 'mamba'"),
    ("bench --devices cpu", "the nearest is --device"),
    ("verify --greedy -1", "--greedy"),
    ("doctor a.log b.log", "'b.log' is one argument too many"),
    ("install", "missing: PACKAGE"),
    ("uninstall --al", "there is no option --al"),
    ("dropin enalbe", "the nearest is 'enable'"),
    ("run --overide x.py", "the nearest is --override"),
    ("demo --minutes 0", "--minutes: '0' is no number above 0"),
    ("demo --seed -1", "--seed"),
    ("trian a.txt", "there is no 'trian'; the nearest is 'train'"),
    ("", "anymamba demo"),
    # noticed by the verb
    ("train", "no data was named"),
    ("train TEXT --size huge", "'huge'"),
    ("train TEXT --steps 3 --epochs 1", "--steps or --epochs"),
    ("train TEXT --encoding utf-99", "--encoding"),
    ("train TEXT --train-tokenizer 40", "--train-tokenizer 40"),
    ("train TEXT --seed -1", "--seed -1"),
    ("train TEXT --report-to nothing", "there is no tracker 'nothing'"),
    ("train TEXT --device nonsense", "--device nonsense"),
    ("train TEXT --backend nonsense", "there is no backend 'nonsense'"),
    ("train --config TOML", "the nearest is 'max-minutes'"),
    ("generate MODEL -p a --temp -1", "temperature"),
    ("generate MODEL -p a --device nonsense", "--device nonsense"),
    ("generate MODEL --prompts TEXT --confidence", "--prompts"),
    ("chat MODEL --top-p 2", "top_p"),
    ("eval MODEL", "nothing to evaluate on"),
    ("eval MODEL TEXT --mode sliding --window 8 --stride 9", "stride"),
    ("eval MODEL TEXT --device nonsense", "--device nonsense"),
    ("plot RUN -o picture.jpg", ".svg or .png"),
    ("backends --device nonsense", "--device nonsense"),
    ("bench --device nonsense", "--device nonsense"),
    ("bench --device cpu --backend nonsense", "there is no backend 'nonsense'"),
    ("bench --device cpu --only nonsense", "no case matches 'nonsense'"),
    ("verify MODEL", "--against"),
    ("verify --only nonsense --device cpu", "no op is named like 'nonsense'"),
    ("verify --dtype int3 --device cpu", "--dtype int3"),
    ("doctor no/such.log", "cannot read no/such.log"),
    ("doctor --explain NONSENSE", "NONSENSE"),
    ("install numpy", "numpy"),
    ("install mamba-ssm --arch many", "--arch many"),
    ("run no/such.py", "no/such.py"),
    ("run", "name a script"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from tests.training.runs import tiny_model

    folder = tmp_path_factory.mktemp("usage")
    (folder / "a.txt").write_text("a text. " * 400)
    (folder / "a.toml").write_text("max_minuts = 3\n")
    run = folder / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    return {
        MODEL: str(tiny_model(folder / "model")), "TEXT": str(folder / "a.txt"), "TOML": str(folder / "a.toml"), "RUN": str(run),
    }  # fmt: skip


@pytest.mark.parametrize(("line", "says"), WRONG, ids=[line or "nothing" for line, _ in WRONG])
def test_wrong_usage_ends_with_two(
    line: str, says: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main([places.get(word, word) for word in line.split()])
    told = capsys.readouterr()
    assert code == 2, told.err
    assert says in (told.err or told.out)
    assert "Traceback" not in told.err and "bug of anymamba" not in told.err
    assert not told.out or not line, "data on stdout only"
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


def test_every_verb_is_tried() -> None:
    assert {line.split()[0] for line, _ in WRONG if line} >= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_shows_the_verbs_own_usage(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--nonsense", "--lang", "en"] if verb != "run" else ["run", "--nonsense", "x.py"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"usage: anymamba {verb} ") and "there is no option --nonsense" in told.err


def test_chinese(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("anymamba.language._chosen", None)
    for words, says in (
        (["--lang", "zh", "train", "--stepz"], "没有选项 --stepz；最接近的是 --steps"),
        (["--lang", "zh", "plot"], "缺少参数：RUN"),
        (["--lang", "zh", "train", "--steps"], "--steps 需要一个值"),
        (["--lang", "zh", "train", "--model", "x"], "可选：mamba, mamba2, mamba3"),
    ):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert says in told and told.startswith("用法：")


@pytest.mark.parametrize("verb", VERBS)
def test_every_sentence_of_the_help_is_chinese(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anymamba.language._chosen", "zh")
    child = Parser(prog="anymamba " + verb)
    importlib.import_module("anymamba.cli." + verb).add_arguments(child)
    plain = [action.help for action in child._actions if action.help and action.help.isascii() and " " in action.help]
    assert plain == [], "these have no Chinese"
    assert child.format_help().startswith("用法：") and "options:" not in child.format_help()


def test_a_program_keeps_its_own_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "own.py"
    script.write_text("import sys; print(sys.argv[1:])")
    try:
        assert main(["run", str(script), "--overide", "--stepz", "3"]) == 0
    finally:
        anymamba.dropin.remove()
    assert "['--overide', '--stepz', '3']" in capsys.readouterr().out


def test_the_nearest_name() -> None:
    names = ["steps", "max-minutes", "micro-batch", "batch-tokens", "lr", "warmup", "train-tokenizer"]
    for word, near in (
        ("max_minuts", "max-minutes"), ("Steps", "steps"), ("learning_rate", "lr"), ("batch", "batch-tokens"),
        ("warmup_ratio", "warmup"), ("minutes", "max-minutes"), ("zzz", None),
    ):  # fmt: skip
        assert nearest(word, names) == near, word


def test_toml_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for text, says in (
        ("learning_rate = 1", "the nearest is 'lr'"), ("stepz = 1", "'steps'"), ("[training]\nsteps = 3", "in no section"),
        ("q = 1", "--help"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(AnymambaError, match=says) as caught:
            read_toml(str(path))
        assert caught.value.exit_code == 2 and str(path) in caught.value.what


def test_other_failures_end_with_one(tmp_path: Path) -> None:
    assert AnymambaError("data", "x").exit_code == 1
    assert cli.main(["eval", str(tmp_path / "none"), str(tmp_path / "a.txt")]) == 1
