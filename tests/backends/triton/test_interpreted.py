"""The kernels' own arithmetic, in Triton's interpreter on the CPU. It is chosen when a kernel is defined, hence processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]

_PROBE = """
import importlib, json, torch
from anymamba.backends import selfcheck, triton
from anymamba.backends.call import Call
found = {}
for op, name in triton.OPS.items():
    call = Call(op, torch.device("cpu"), torch.float32, "update" not in op)
    found[op] = selfcheck.run(importlib.import_module(name), call)
print(json.dumps(found))
"""


_SSD_BACKWARD_IN_PARTS = """
import json, torch
from dataclasses import replace
from anymamba.backends import selfcheck
from anymamba.backends.call import Call
from anymamba.backends.triton import ssd
rule = ssd.backward_plan
ssd.backward_plan = lambda *sizes: replace(rule(*sizes), block_p=16)
found = selfcheck.run(ssd, Call("mamba_chunk_scan_combined", torch.device("cpu"), torch.float32, True))
print(json.dumps(found))
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "ANYMAMBA_LANG": "en"}


def test_every_op_forward_and_backward_reproduces_the_reference() -> None:
    done = subprocess.run([sys.executable, "-c", _PROBE], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) >= 9
    assert not {op: why for op, (ok, why) in found.items() if not ok}


_BFLOAT16 = """
import json, torch
from anymamba.backends import selfcheck
from anymamba.backends.call import Call
from anymamba.backends.triton import ssd
from anymamba.numerics import interpreted_bfloat16
interpreted_bfloat16.mend()
print(json.dumps(selfcheck.run(ssd, Call("mamba_chunk_scan_combined", torch.device("cpu"), torch.bfloat16, True))))
"""


def test_products_of_bfloat16() -> None:
    done = subprocess.run([sys.executable, "-c", _BFLOAT16], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ok, why = json.loads(done.stdout.splitlines()[-1])
    assert ok, why


def test_ssd_backward_with_headdim_in_parts() -> None:
    """A head of more channels than a program takes at a time."""
    done = subprocess.run([sys.executable, "-c", _SSD_BACKWARD_IN_PARTS], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ok, why = json.loads(done.stdout.splitlines()[-1])
    assert ok, why


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("op", ["causal_conv1d", "selective_scan", "selective_state_update", "ssd", "norm", "mamba_inner", "cross_entropy"])
def test_every_option_of_an_op(op: str) -> None:
    command = [sys.executable, "-m", "pytest", f"tests/ops/test_{op}.py", "-k", "triton", "-q", "-m", "not slow", "--timeout=3000"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
