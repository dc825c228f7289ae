"""What a user's type checker sees of the front door: mypy and pyright accept right code and refuse wrong code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import anymamba

RIGHT = """
import torch
import anymamba
from anymamba.generation import Chat, Sampling
from anymamba.training import Run, TrainConfig

model = anymamba.load("runs/x", device="cpu", dtype="bfloat16", quantize="int8")
reveal_type(model)
reveal_type(model.generate("text", 20, temperature=0.7, seed=1))
reveal_type(model.generate(["one", "two"], stop=["."]))
reveal_type(model.generate(torch.zeros(1, 4, dtype=torch.long), 20))
for piece in model.stream("text"):
    reveal_type(piece)
reveal_type(model.score("text").log_probabilities)
reveal_type(anymamba.from_pretrained("runs/x"))
run = anymamba.train("book.txt", size="tiny", max_minutes=2, batch_tokens=4096)
reveal_type(run)
reveal_type(run.model)
reveal_type(anymamba.evaluate(run.model, "book.txt").bits_per_byte)
y = anymamba.ops.causal_conv1d_fn(torch.randn(1, 8, 10), torch.randn(8, 4), activation="silu")
with anymamba.use_backend("torch"):
    pass
"""
REVEALED = ["Model", "str", "list[str]", "Tensor", "str", "list[float]", "Model", "Run", "Model", "float"]
WRONG = {
    'anymamba.load(3.5)': "load",
    'anymamba.laod("x")': "laod",
    'anymamba.load("x").generate("x", temprature=1.0)': "generate",
    'anymamba.train("x").modell': "modell",
}  # fmt: skip

CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--no-incremental", "--cache-dir=/dev/null"],
    # told which Python: by itself it takes the first one of PATH, which need not have torch
    "pyright": [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_snippet_is_typed(checker: str, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(RIGHT, "utf-8")
    names = [f"wrong{number}.py" for number in range(len(WRONG))]
    for name, line in zip(names, WRONG):
        (tmp_path / name).write_text(f"import anymamba\n{line}\n", "utf-8")
    if checker == "mypy":
        (tmp_path / "mypy.ini").write_text("[mypy]\nignore_missing_imports = True\nfollow_imports = silent\n", "utf-8")
    else:
        sources = str(Path(anymamba.__file__).parent.parent)
        settings = {"typeCheckingMode": "standard", "pythonVersion": "3.10", "extraPaths": [sources]}
        (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    done = subprocess.run([*CHECKERS[checker], "right.py", *names], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if "right.py" in line and "error" in line], done.stdout + done.stderr
    revealed = [line for line in lines if "right.py" in line and ("Revealed type" in line or "Type of" in line)]
    assert len(revealed) == len(REVEALED), done.stdout + done.stderr
    for line, wanted in zip(revealed, REVEALED):
        shown = line.split(" is ", 1)[1].strip("\"' ").replace("builtins.", "")
        assert shown.split(".")[-1] == wanted or shown == wanted, line
    for name, word in zip(names, WRONG.values()):
        errors = [line for line in lines if name in line and "error" in line]
        assert errors and any(word in line for line in errors), f"{WRONG}: {done.stdout}"

