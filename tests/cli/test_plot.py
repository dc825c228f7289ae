"""Pictures of runs: well-formed, with every curve in them, readable by any viewer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image, ImageDraw

from anymamba.cli import main
from anymamba.training.show import fonts
from anymamba.training.show.axes import label, log_ticks, smoothed, ticks
from anymamba.training.show.chart import chart
from anymamba.training.show.png import _dashes


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two runs with training and validation losses; one has a name in Chinese and a torn last line."""
    folders = [tmp_path / "first", tmp_path / "第二次"]
    for index, folder in enumerate(folders):
        folder.mkdir()
        rows = []
        for step in range(1, 51):
            rows.append({"step": step, "loss": 5 / (step + index), "lr": 1e-3 / step, "tokens": step * 512, "seconds": step / 10})
            if step % 10 == 0:
                rows.append({"step": step, "val_loss": 5 / step + 0.1, "bits_per_byte": 3.0 / step})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text + ('{"step": 51, "lo' if index else ""), "utf-8")
    return [str(folder) for folder in folders]


def test_svg_has_every_curve_and_name(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "both.svg"
    assert main(["plot", *runs, "-o", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    tree = ElementTree.parse(target)
    space = "{http://www.w3.org/2000/svg}"
    curves = tree.findall(f"{space}polyline")
    assert len(curves) == 4 and [len(curve.attrib["points"].split()) for curve in curves] == [50, 5, 50, 5]
    words = {element.text for element in tree.iter(f"{space}text")}
    assert {"first", "first, held out", "第二次", "step", "loss (nats a token)"} <= words
    points = [tuple(map(float, point.split(","))) for point in curves[0].attrib["points"].split()]
    assert points == sorted(points) and points[0][1] < points[-1][1], "a falling loss goes down the picture"


def colours(path: Path) -> dict[tuple[int, int, int], int]:
    picture = Image.open(path)
    assert picture.size == (960, 540)
    return {colour: number for number, colour in picture.convert("RGB").getcolors(960 * 540)}


def test_png_is_a_png_with_the_curves_colours(runs: list[str], tmp_path: Path) -> None:
    target = tmp_path / "both.png"
    assert main(["plot", *runs, "-o", str(target)]) == 0
    counted = colours(target)
    assert counted[255, 255, 255] > 400_000
    for colour in ((0x25, 0x63, 0xEB), (0xDC, 0x26, 0x26)):
        assert counted[colour] > 200


def drawn(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """The texts that Pillow is given to draw."""
    texts: list[str] = []
    real = ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, **more: (texts.append(text), real(self, at, text, **more))[1])
    monkeypatch.setattr("anymamba.language._chosen", None)
    assert main(["--lang", "zh", "plot", *words]) == 0
    return texts


def test_chinese_labels_are_drawn_with_a_font_that_has_them(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if fonts.font_for("损失", 26) is None:
        pytest.skip("no Chinese font on this machine")
    texts = drawn(monkeypatch, *runs, "-o", str(tmp_path / "a.png"))
    assert {"步数", "损失（每词元奈特）", "first，验证", "第二次"} <= set(texts) and not any("?" in text for text in texts)
    font = fonts.font_for("损失", 26)
    assert bytes(font.getmask("损")) != bytes(font.getmask("失")) != bytes(font.getmask("\U0010ffff")), "characters, not boxes"
    assert capsys.readouterr().err == ""


def test_without_a_chinese_font_the_labels_are_english_and_that_is_said(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fonts, "_chinese", lambda size: None)
    texts = drawn(monkeypatch, *runs, "-o", str(tmp_path / "a.png"))
    assert {"step", "loss (nats a token)", "first, held out", "first", "curve 3"} <= set(texts)
    assert not any("?" in text for text in texts)
    told = capsys.readouterr()
    assert told.err.count("改用英文标签") == 1 and "第二次 显示为 curve 3" in told.err and ".svg" in told.err
    assert colours(tmp_path / "a.png")[0x25, 0x63, 0xEB] > 200


def test_without_pillow_the_extra_is_named_and_svg_works(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("PIL", "PIL.Image", "PIL.ImageDraw", "PIL.ImageFont"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["plot", *runs, "-o", str(tmp_path / "a.png")]) == 1
    told = capsys.readouterr().err
    assert "anymamba[plot]" in told and ".svg" in told and "Traceback" not in told
    assert main(["plot", *runs, "-o", str(tmp_path / "a.svg")]) == 0 and (tmp_path / "a.svg").exists()


def test_dashes_cover_three_fifths_of_a_line() -> None:
    parts = _dashes([(0.0, 0.0), (37.0, 0.0), (37.0, 63.0)])
    lengths = [sum(abs(x1 - x0) + abs(y1 - y0) for (x0, y0), (x1, y1) in zip(part, part[1:])) for part in parts]
    assert len(parts) >= 10 and all(length == pytest.approx(6) for length in lengths[:10]) and sum(lengths) == pytest.approx(60)


@pytest.mark.parametrize(
    "options", [["-x", "tokens"], ["-x", "seconds", "--log"], ["-y", "bits_per_byte"], ["-y", "lr", "--smooth", "0.9"]]
)
def test_axes(runs: list[str], options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", runs[0], *options]) == 0
    target = Path(capsys.readouterr().out.strip())
    assert target.parent == Path(runs[0]) and ElementTree.parse(target).find("{http://www.w3.org/2000/svg}polyline") is not None


def test_in_the_terminal(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", *runs, "--terminal"]) == 0
    assert "⣀" in capsys.readouterr().out
    assert not list(Path(runs[0]).glob("*.svg"))


def test_mistakes_are_named(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says, code in (
        ([str(tmp_path / "nowhere")], "no metrics.jsonl", 1),
        ([runs[0], "-o", "picture.jpg"], ".svg or .png", 2),
        ([runs[0], "-o", str(tmp_path / "no" / "a.svg")], "cannot be written", 1),
        ([runs[0], "-y", "grad_norm"], "no run has values", 1),
    ):
        assert main(["plot", *arguments]) == code
        assert says in capsys.readouterr().err


def test_chart_draws_what_it_is_given() -> None:
    falling = chart([("a", [(step, 10 - step) for step in range(10)])], width=20, height=5, ascii_only=True).splitlines()
    columns = [[row for row in range(5) if falling[row][column : column + 1] == "*"] for column in range(4, 20)]
    tops = [rows[0] for rows in columns if rows]
    assert tops == sorted(tops) and tops[0] == 0 and tops[-1] == 4
    assert chart([("flat", [(1, 2.0), (2, 2.0)])]) and chart([("none", [(1, float("nan"))])]) == ""
    assert max(map(len, chart([("a", [(0, 0), (9, 9)])], width=60).splitlines())) <= 60


def test_ticks_are_round() -> None:
    assert ticks(0.0, 10.0) == [0, 2, 4, 6, 8, 10] and ticks(1.95, 2.27) == [2.0, 2.1, 2.2]
    assert log_ticks(0.9, 30) == [1, 2, 5, 10, 20]
    assert [label(x) for x in (0, 1500, 0.003, 0.00001, 2_500_000)] == ["0", "1500", "0.003", "1e-05", "2.5M"]
    assert smoothed([(0, 1.0), (1, 1.0), (2, 1.0)], 0.9) == [(0, 1.0), (1, 1.0), (2, pytest.approx(1.0))]
