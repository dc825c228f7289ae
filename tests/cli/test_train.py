"""``anymamba train`` as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import flags, losses, settings, tiny_model

from anymamba.cli import main
from anymamba.errors import AnymambaError
from anymamba.training.loop.schedule import Schedule
from anymamba.training.machine.precision import choose_precision
from anymamba.training.run.config import TrainConfig, checked_ranges, read_toml
from anymamba.training.show.report import Reporter, clock, count, progress_line
from anymamba.training.show.trackers import open_trackers


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A small run's flags."""
    text = tmp_path / "a.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    return flags(settings(tiny_model(tmp_path / "start"), tmp_path / "run", text, steps=4))


def test_stdout_is_the_checkpoint_and_stderr_the_story(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "run" / "step-000004")
    for part in ("rows at once", "learning rate", "held out", "step 4/4", "loss", "tok/s", "mem ", "loss (nats a token)", "⠤"):
        assert part in told.err, part
    assert "\x1b" not in told.err, "no colour codes or live line without a terminal"


def test_json_is_one_document(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words, "--json", "-q"]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["steps"] == 4 and document["tokens"] == 4 * 512 and document["interrupted"] is False
    assert document["perplexity"] > 1 and told.err == ""


def test_chinese(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anymamba.language._chosen", None)  # what --lang sets is put back after the test
    assert main(["--lang", "zh", "train", *words]) == 0
    assert "学习率" in capsys.readouterr().err


def test_resume_needs_no_flags_again(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words, "-q"]) == 0
    before = losses(tmp_path / "run")
    assert main(["train", "--resume", "auto", "--out", str(tmp_path / "run"), "-q"]) == 0
    assert losses(tmp_path / "run") == before
    assert main(["train", *words, "-q"]) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", "--resume", "auto", "--out", str(tmp_path / "run"), "--steps", "9", "-q"]) == 0
    assert len(losses(tmp_path / "run")) == 9


def test_toml_is_read_and_flags_win(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    folder = tmp_path.as_posix()
    path.write_text(f'data = "{folder}/a.txt"\nfrom = "{folder}/start"\nsteps = 9\nbatch-tokens = 256\nlr = 1\n')
    out = tmp_path / "toml"
    assert main(["train", "--config", str(path), "--out", str(out), "--steps", "2", "--lr", "1e-3", "-q", "--sample-every", "-1"]) == 0
    saved = json.loads((out / "run.json").read_text("utf-8"))["config"]
    assert (saved["steps"], saved["batch_tokens"], saved["lr"]) == (2, 256, 1e-3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps = 'many'", "must be int"),
        ("stepz = 3", "the nearest is 'steps'"),
        ("schedule = 'linear'", "cosine, wsd"),
        ("steps =", "is not TOML"),
        ("data = [1]", "must be list"),
    ],
)
def test_mistakes_in_the_file_name_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(AnymambaError, match=says) as caught:
        read_toml(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        ([], "no data was named", 2),
        (["nowhere.txt"], "nowhere.txt does not exist", 1),
        (["{a}", "--validation", "1.5"], "--validation 1.5", 2),
        (["{a}", "--steps", "3", "--epochs", "2"], "not both", 2),
        (["{a}", "--size", "huge"], "no model size", 2),
        (["{a}", "--device", "cuda:77"], "--device cuda:77", 2),
        (["{a}", "--backend", "magic"], "no backend 'magic'", 2),
        (["{a}", "--from", "{start}/nothing/here"], "no folder", 1),
        (["{a}", "--resume", "nowhere"], "no training state", 1),
        (["{a}", "--report-to", "paper"], "no tracker 'paper'", 2),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], tmp_path: Path, arguments: list[str], says: str, code: int, capsys: Any) -> None:
    filled = [word.format(a=tmp_path / "a.txt", start=tmp_path) for word in arguments]
    assert main(["train", *filled, "--out", str(tmp_path / "fresh"), "-q"]) == code
    assert not (tmp_path / "fresh" / "data").exists(), "looked at before anything is read"
    told = capsys.readouterr()
    assert says in told.err and "Traceback" not in told.err and told.out == ""


def test_ranges() -> None:
    with pytest.raises(AnymambaError, match="must not be negative"):
        checked_ranges(TrainConfig(lr=-1.0))
    assert checked_ranges(TrainConfig()).size == "tiny"


def test_help_is_in_both_languages_and_loads_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from anymamba.cli import main\n"
        "try: main(['--lang', 'zh', 'train', '-h'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and "学习率峰值" in done.stdout


def test_schedules() -> None:
    cosine = Schedule("cosine", 1.0, steps=100, warmup=10, decay=0, floor=0.1)
    rates = [cosine.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[99] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[54] == pytest.approx(0.55, abs=0.02)
    wsd = Schedule("wsd", 1.0, steps=100, warmup=10, decay=20, floor=0.0)
    assert {wsd.rate(step) for step in range(10, 80)} == {1.0} and wsd.rate(89) == pytest.approx(0.5) and wsd.rate(99) == 0.0


def test_precision_is_chosen_by_facts_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    device = torch.device("cpu")
    monkeypatch.setattr("anymamba.backends.matrix_units.cpu_unit", lambda dtype: "AMX")
    assert choose_precision("auto", device) == (torch.bfloat16, "the processor has AMX")
    assert choose_precision("bf16", device) == (torch.bfloat16, "asked for")
    monkeypatch.setattr("anymamba.backends.matrix_units.cpu_unit", lambda dtype: "")
    chosen, why = choose_precision("auto", device)
    assert chosen is None and "neither" in why
    chosen, why = choose_precision("bf16", device)
    assert chosen == torch.bfloat16 and "neither AVX512-BF16" in why and "not faster" in why
    assert choose_precision("auto", torch.device("mps"))[0] is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_precision("auto", torch.device("cuda"))[0] is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    assert choose_precision("auto", torch.device("cuda")) == (torch.bfloat16, "compute capability 12.0, bf16 units come with 8.0")


def test_a_tracker_that_is_not_installed_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "trackio", "wandb"):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
        with pytest.raises(AnymambaError, match=f"--report-to {name}") as caught:
            open_trackers([name], tmp_path, {})
        assert f"pip install {name}" in str(caught.value)


def test_trackers_get_the_numbers(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    class Fake:
        init = staticmethod(lambda **about: seen.append((0, about)))
        log = staticmethod(lambda values, step: seen.append((step, values)))
        finish = staticmethod(lambda: seen.append((-1, {})))

    monkeypatch.setitem(sys.modules, "wandb", Fake)  # type: ignore[arg-type]
    assert main(["train", *words, "--report-to", "wandb", "-q"]) == 0
    assert [step for step, values in seen if "loss" in values] == [1, 2, 3, 4]
    assert any("val_loss" in values for _, values in seen) and seen[-1][0] == -1


def test_the_live_line_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import os

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("shutil.get_terminal_size", lambda *a: os.terminal_size((40, 24)))
    stream = Terminal()
    reporter = Reporter(stream=stream)
    row = {"step": 12, "loss": 2.5, "tokens_per_s": 8123.0, "matmul_share": 0.61, "memory": 3 << 30}
    line = progress_line(row, 100, 200.0)
    assert line == "step 12/100  loss 2.5000  8.1k tok/s  matmul 61%  mem 3.0 GiB  left 3:20"
    reporter.progress(line, last=True)
    assert stream.getvalue() == "\r\x1b[K" + line[:39]
    assert (clock(3723), count(130e6), count(17)) == ("1:02:03", "130.0M", "17")
