"""100,000 tokens under every backend of a CPU: does the difference between two ways of computing a model grow with the text?

    python benchmarks/long_text.py mamba             # and: mamba2; some minutes, and half an hour for Triton's interpreter

Trains a small model with ``anymamba train`` on the documentation text inside every Python, then has ``anymamba verify`` read the
first 100,000 bytes of that text under two sides at a time. The result goes to benchmarks/results/long-text-FAMILY-DATE.json after
every pair; a pair that is already there is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from anymamba import __version__
from anymamba.backends import machine
from anymamba.cli import main as anymamba
from anymamba.cli.plot import write
from anymamba.models import hub
from anymamba.models.config import Config
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.tokenizer import byte_tokenizer
from anymamba.training.run.demo import sections
from anymamba.training.show.axes import COLOURS, Axes, Curve

PAIRS: dict[str, tuple[str, str, int]] = {
    "chunked against reference": ("torch-reference", "torch-chunked", 0),
    "cpu against reference": ("torch-reference", "cpu", 0),
    "cpu against chunked": ("torch-chunked", "cpu", 4096),
    "cpu: step by step against one pass": ("cpu:whole", "cpu:step", 0),
    "chunked: step by step against one pass": ("torch-chunked:whole", "torch-chunked:step", 0),
    "reference: step by step against one pass": ("torch-reference:whole", "torch-reference:step", 0),
    "reference against float64": ("torch-reference:float64", "torch-reference", 0),
    "bfloat16 weights": ("cpu:float32", "cpu:bfloat16", 4096),
    "bfloat16 weights, residual in bfloat16": ("cpu:float32", "cpu:bfloat16:residual-dtype", 4096),
    "state in bfloat16": ("cpu:float32:step", "cpu:float32:step:state-bfloat16", 4096),
    "step by step, state read anew every 512": ("cpu:whole", "cpu:step:resync-512", 0),
    "triton-interpreted against reference": ("torch-reference", "triton-interpreted", 0),
}
"""name -> the two sides, and tokens that each writes greedily."""

COLUMNS = "position", "logit_difference", "kl", "state_norm", "state_difference"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=("mamba", "mamba2"))
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "anymamba-long-text", help="models and text")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what is there of the newest result, and measure nothing")
    parser.add_argument("--only", default="", help="pairs whose name contains this")
    arguments = parser.parse_args()
    if arguments.plot:
        return plot(arguments.family, arguments.plot)
    model = trained(arguments.family, arguments.work)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    target = Path(__file__).parent / "results" / f"long-text-{arguments.family}-{today}.json"
    for name, sides in PAIRS.items():
        if arguments.only not in name or name in read(target, arguments, model)["pairs"]:
            continue
        found = measured(model, arguments.work / "topics.txt", arguments.tokens, *sides)
        document = read(target, arguments, model)
        document["pairs"][name] = found
        target.write_text(text_of(document), "utf-8")


DRAWN = (
    "cpu against reference", "chunked against reference", "triton-interpreted against reference", "cpu: step by step against one pass",
    "reference against float64",
)  # fmt: skip


def plot(family: str, target: Path) -> None:
    """The largest logit difference over position, a curve for each pair."""
    newest = max((Path(__file__).parent / "results").glob(f"long-text-{family}-*.json"))
    pairs = json.loads(newest.read_text("utf-8"))["pairs"]
    curves = []
    for colour, name in zip(COLOURS, [name for name in DRAWN if name in pairs]):
        columns = pairs[name]["windows"]
        points = list(zip(map(float, columns["position"]), columns["logit_difference"]))
        curves.append(Curve(name, colour, [(x, y) for x, y in points if y > 0]))
    write(Axes(curves, "tokens", f"largest logit difference, {family}", log_y=True), target)


def read(target: Path, arguments: argparse.Namespace, model: Path) -> dict[str, Any]:
    """What was measured so far."""
    return json.loads(target.read_text("utf-8")) if target.is_file() else head(arguments, model)


def trained(family: str, work: Path) -> Path:
    """The last checkpoint of a run of 600 steps; trained if it is not there."""
    run = work / family
    if not (run / "step-000600").is_dir():
        work.mkdir(parents=True, exist_ok=True)
        parts = sections()
        (work / "topics.jsonl").write_text("".join(json.dumps({"text": part}) + "\n" for part in parts), "utf-8")
        (work / "topics.txt").write_text("".join(parts), "utf-8")
        torch.manual_seed(0)
        hub.save(LanguageModel(config(family)), work / f"init-{family}", tokenizer=byte_tokenizer())
        options = "--steps 600 --length 256 --batch-tokens 4096 --lr 4e-3 --precision fp32 --sample-every -1 --eval-every 200"
        words = ["train", str(work / "topics.jsonl"), "--from", str(work / f"init-{family}"), "--out", str(run)]
        with contextlib.redirect_stdout(io.StringIO()):
            if anymamba([*words, *options.split()]):
                raise SystemExit("the training failed")
    return run / "step-000600"


def config(family: str) -> Config:
    """Two layers, 64 wide: small enough for an interpreter."""
    tokenizer = byte_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": -(-tokenizer.vocab_size // 16) * 16, "hidden_size": 64, "num_hidden_layers": 2,
        "eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id,
    }  # fmt: skip
    if family == "mamba":
        return MambaConfig(**sizes)
    return Mamba2Config(**sizes, num_heads=4, head_dim=32, n_groups=1, state_size=32, tie_word_embeddings=True)


def head(arguments: argparse.Namespace, model: Path) -> dict[str, Any]:
    state = json.loads((model / "config.json").read_text("utf-8"))
    sizes = {key: state[key] for key in ("model_type", "hidden_size", "num_hidden_layers", "state_size", "vocab_size")}
    return {
        "command": f"python benchmarks/long_text.py {arguments.family}",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "versions": {"anymamba": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "model": sizes,
        "pairs": {},
    }


def measured(model: Path, text: Path, tokens: int, a: str, b: str, greedy: int) -> dict[str, Any]:
    """``anymamba verify`` in a process of its own: whether Triton compiles or interprets is settled once a process."""
    words = ["verify", str(model), "--against", a, b, "--tokens", str(tokens), "--text", str(text), "--greedy", str(greedy)]
    run = subprocess.run(
        [sys.executable, "-m", "anymamba", *words, "--device", "cpu", "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    found = json.loads(run.stdout)
    forced = found["teacher_forced"]
    windows = forced.pop("windows")
    columns = {name: [rounded(window[name]) for window in windows] for name in COLUMNS}
    about = {name: found[name] for name in ("ok", "verdict", "seconds", "greedy")}
    return {**about, **forced, "windows": columns}


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def text_of(document: dict[str, Any]) -> str:
    """Indented, with every column of windows on one line."""
    columns: list[str] = []

    def mark(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: mark(part) for key, part in value.items()}
        if isinstance(value, list) and len(value) > 8:
            columns.append(json.dumps(value, separators=(",", ":")))
            return f"@{len(columns) - 1}@"
        return value

    text = json.dumps(mark(document), indent=1, ensure_ascii=False)
    for index, column in enumerate(columns):
        text = text.replace(f'"@{index}@"', column)
    return text + "\n"


if __name__ == "__main__":
    main()
