"""The gradient of gated norms with more columns than fit in registers, whose weights have a kernel of their own; interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

_GRADIENTS = """
import itertools, json, torch
from anymamba import ops
worst = {}
for width, first, rms in itertools.product((8192, 5000), (True, False), (True, False)):
    draw = torch.Generator().manual_seed(width)
    random = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64)
    values, up = [random(3, width), random(width), None if rms else random(width), random(3, width)], random(3, width)
    found = []
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        given = [None if value is None else value.to(dtype).requires_grad_() for value in values]
        out = ops.layernorm_fn(*given, 1e-5, None, first, rms, backend=backend)
        out.backward(up.to(dtype))
        found.append([out.detach(), *(t.grad for t in given if t is not None)])
    worst[f"{width} {first} {rms}"] = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found))
print(json.dumps(worst))
"""


def test_gradients_of_gated_norms_of_many_columns() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "ANYMAMBA_LANG": "en"}
    done = subprocess.run(
        [sys.executable, "-c", _GRADIENTS], env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0, done.stderr
    worst = json.loads(done.stdout.splitlines()[-1])
    assert len(worst) == 8
    assert {case: error for case, error in worst.items() if not error < 1e-6} == {}
