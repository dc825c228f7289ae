"""Forward and backward of transformers' mamba and mamba2 at 512 tokens, with the drop-in and with transformers' own torch code.

As a program, on a quiet machine: ``python -m tests.dropin.test_speed`` prints the figures.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"mamba": 20.0, "mamba2": 2.0}


def seconds(family: str, mode: str) -> float:
    """Median time of a step, in this process."""
    if mode == "with":
        import anymamba

        anymamba.dropin()
    import torch
    import transformers

    torch.manual_seed(0)
    if family == "mamba":
        config = transformers.MambaConfig(hidden_size=512, num_hidden_layers=2, vocab_size=256)
        model = transformers.MambaForCausalLM(config)
    else:
        config = transformers.Mamba2Config(
            hidden_size=512, num_hidden_layers=2, vocab_size=256, num_heads=16, head_dim=64, n_groups=1, state_size=64,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        model = transformers.Mamba2ForCausalLM(config)
    ids = torch.randint(0, 256, (1, 512))
    times = []
    for _ in range(6 if mode == "with" else 3):
        started = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def measured(family: str) -> tuple[float, str]:
    """How many times quicker a step is with the drop-in, and a line that says so."""
    took = {}
    for mode in ("without", "with"):
        code = f"from tests.dropin.test_speed import seconds; print(seconds({family!r}, {mode!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        took[mode] = float(done.stdout.strip().splitlines()[-1])
    ratio = took["without"] / took["with"]
    line = f"{family}: {1000 * took['without']:.0f} ms without, {1000 * took['with']:.0f} ms with, {ratio:.1f} times quicker"
    return ratio, f"{line} (wanted: {LEAST[family]:.0f})"


@pytest.mark.slow
@pytest.mark.parametrize("family", LEAST)
def test_how_much_quicker_a_step_is(family: str) -> None:
    pytest.importorskip("transformers", minversion="5.15")
    ratio, line = measured(family)
    print(line)
    assert ratio >= LEAST[family]


if __name__ == "__main__":
    for family in LEAST:
        print(measured(family)[1], flush=True)
