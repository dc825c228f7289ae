"""Pictures of runs: well-formed, with every curve in them, readable by any viewer."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from anymamba.cli import main
from anymamba.training.axes import label, log_ticks, smoothed, ticks
from anymamba.training.chart import chart


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


def test_png_is_a_png_with_the_curves_colours(runs: list[str], tmp_path: Path) -> None:
    target = tmp_path / "both.png"
    assert main(["plot", *runs, "-o", str(target)]) == 0
    content = target.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")
    at, chunks = 8, {}
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + body) == struct.unpack(">I", content[at + 8 + size : at + 12 + size])[0]
        chunks[kind] = body
        at += 12 + size
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert (width, height) == (960, 540) and len(pixels) == height * (1 + 3 * width)
    for colour in (b"\x25\x63\xeb", b"\xdc\x26\x26"):
        assert pixels.count(colour) > 200


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
