"""The kernels' own arithmetic, in Triton's interpreter on the CPU. It is chosen when a kernel is defined, hence processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.ops.harness import REFUSED

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]

_PROBE = """
import importlib, json, torch
import anymamba.ops
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
import anymamba.ops
from dataclasses import replace
from anymamba.backends import selfcheck
from anymamba.backends.call import Call
from anymamba.backends.triton.ssd import ssd
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


_FROM_A_STATE = """
import json, torch
import anymamba.ops
from dataclasses import replace
from anymamba.backends import probes
from anymamba.backends.call import Call
from anymamba.backends.opspec import SPECS
from anymamba.backends.triton.scan import selective_scan
build, found = SPECS["selective_scan_fn"].build, {}
call = Call("selective_scan_fn", torch.device("cpu"), torch.float32, True)
ids = [-1, 0, 0, 4, -1, 4, 4, 2, *[3] * 30, -1, 5, 5]
rules = {name: getattr(selective_scan, name) for name in ("forward_plan", "backward_plan")}
for name, chunks, sizes in (
    ("both", 2, {"length": len(ids), "documents": ids, "states": True, "d_state": 5}),
    ("state", 1, {"length": 33, "states": True, "return_last_state": True, "d_state": 2}),
    ("documents", 1, {"length": 33, "tokens": 20, "layout": "length", "d_state": 2}),
):
    for plan, rule in rules.items():
        setattr(selective_scan, plan, lambda *sizes, rule=rule: replace(rule(*sizes), chunks=chunks))
    found[name] = probes.largest_error(selective_scan.selective_scan_fn, call, build(batch=1, dim=3, **sizes))
print(json.dumps(found))
"""


def test_scan_from_a_state_and_of_documents() -> None:
    """Also where the length is shared by several programs."""
    done = subprocess.run([sys.executable, "-c", _FROM_A_STATE], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 3
    assert not {name: error for name, error in found.items() if not error[0] < 2e-6}


_BFLOAT16 = """
import json, torch
import anymamba.ops
from anymamba.backends import selfcheck
from anymamba.backends.call import Call
from anymamba.backends.triton.ssd import ssd
from anymamba.numerics import interpreted_bfloat16
interpreted_bfloat16.mend()
print(json.dumps(selfcheck.run(ssd, Call("mamba_chunk_scan_combined", torch.device("cpu"), torch.bfloat16, True))))
"""


def test_products_of_bfloat16() -> None:
    done = subprocess.run([sys.executable, "-c", _BFLOAT16], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ok, why = json.loads(done.stdout.splitlines()[-1])
    assert ok, why


_MAMBA3 = """
import json, torch
from anymamba.ops.mamba3 import build as siso
from anymamba.ops.mamba3_mimo import build as mimo
from anymamba.backends import probes
from anymamba.backends.call import Call
from anymamba.backends.triton.mamba3 import scan as kernels
from anymamba.numerics import interpreted_bfloat16
interpreted_bfloat16.mend()
small = {"nheads": 2, "ngroups": 1, "headdim": 5, "d_state": 10, "batch": 1}
packed = {**small, "length": 40, "borders": [0, 7, 7, 40]}
cases = [
    ("mamba3_siso", torch.float32, siso(num_angles=3, **packed)),
    ("mamba3_siso", torch.bfloat16, siso(num_angles=3, length=37, given=("D", "Z"), **small)),
    ("mamba3_mimo", torch.float32, mimo(given=("D",), rank=3, **packed)),
    ("mamba3_mimo", torch.float16, mimo(rank=2, length=19, rotary_dim_divisor=2, **small)),
]
device, found = torch.device("cpu"), []
for op, dtype, build in cases:
    worst, where = probes.largest_error(getattr(kernels, op), Call(op, device, dtype, True), build)
    found.append((op, str(dtype), worst / {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype], where))
print(json.dumps(found))
"""


def test_mamba3_with_odd_sizes_and_packed_sequences() -> None:
    """One of them without tokens; states in and out, every gradient; in 16 bits too."""
    done = subprocess.run([sys.executable, "-c", _MAMBA3], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 4
    assert not [case for case in found if not case[2] < 1]


def test_ssd_backward_with_headdim_in_parts() -> None:
    """A head of more channels than a program takes at a time."""
    done = subprocess.run([sys.executable, "-c", _SSD_BACKWARD_IN_PARTS], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ok, why = json.loads(done.stdout.splitlines()[-1])
    assert ok, why


_UNIT = """
import json, numpy, torch
from anymamba.backends.triton.scan import selective_scan as kernels
from anymamba.reference import selective_scan as reference
exp2 = numpy.exp2
numpy.exp2 = lambda x, *more: exp2(x, *more) * (1 + 1e-3)
draw = torch.Generator().manual_seed(0)
random = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64)
values = [random(1, 20, 75), random(1, 20, 75).abs() * 0.1, -random(20, 16).exp(), random(1, 16, 75), random(1, 16, 75)]
found = []
for module, dtype in ((kernels, torch.float32), (reference, torch.float64)):
    given = [value.to(dtype).requires_grad_() for value in values]
    out = module.selective_scan_fn(*given)
    found.append([out.detach(), *torch.autograd.grad(out.sum(), given)])
print(json.dumps(max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found))))
"""


def test_decays_of_float32_do_not_trust_the_unit_for_exponentials() -> None:
    """A GPU's unit errs by a little, and always in the same direction; this one errs by much."""
    done = subprocess.run([sys.executable, "-c", _UNIT], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 4e-6


_CUT_OFF = """
import json, numpy, torch
from triton._C.libtriton import ir
from triton.runtime import interpreter
from anymamba.backends.triton.scan import selective_scan as kernels, selective_scan_plan
from anymamba.reference import selective_scan as reference
selective_scan_plan.matrix_unit_for_float32 = lambda device: True
exact, products = interpreter.InterpreterBuilder.create_dot, []
def cut_off(self, a, b, d, precision, *more):  # as NVIDIA's matrix unit does with float32
    if precision == ir.INPUT_PRECISION.TF32 and a.data.dtype == numpy.float32:
        products.append(precision)
        a, b = (interpreter.TensorHandle((x.data.view(numpy.int32) & -0x2000).view(numpy.float32), x.dtype) for x in (a, b))
    return exact(self, a, b, d, precision, *more)
interpreter.InterpreterBuilder.create_dot = cut_off
draw = torch.Generator().manual_seed(0)
random = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64).half()
values = [random(1, 20, 75), random(1, 20, 75).abs() * 0.1, -random(20, 16).exp(), random(1, 16, 75), random(1, 16, 75)]
found = []
for module, dtype in ((kernels, torch.float16), (reference, torch.float64)):
    given = [value.to(dtype).requires_grad_() for value in values]
    found.append([g.double() for g in torch.autograd.grad(module.selective_scan_fn(*given).sum(), given[3:])])
assert products
print(json.dumps(max(abs(float(((a - b) * b).sum() / b.square().sum())) for a, b in zip(*found))))
"""


def test_sums_over_channels_are_not_cut_off_by_the_matrix_unit() -> None:
    done = subprocess.run([sys.executable, "-c", _CUT_OFF], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 5e-5


_SUMS = """
import json, numpy, torch
from triton.runtime import interpreter
from anymamba import ops
def by_doubling(self, a):  # the order in which a GPU adds
    assert self.axis == 0
    x, reach = a.handle.data, 1
    while reach < len(x):
        x = numpy.concatenate([x[:reach], x[reach:] + x[:-reach]])
        reach *= 2
    return [self.to_tensor(x, a.dtype)]
interpreter.ScanOps.cumsum = by_doubling
draw = torch.Generator().manual_seed(0)
random = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64)
values = [random(1, 70, 4, 16), random(1, 70, 4) + 8, -random(4).exp(), random(1, 70, 2, 24), random(1, 70, 2, 24)]
states = []
for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
    given = [value.to(dtype) for value in values]
    states.append(ops.mamba_chunk_scan_combined(*given, chunk_size=64, dt_softplus=True, return_final_states=True, backend=backend)[1])
print(json.dumps(float(((states[0] - states[1]) * states[1]).sum() / states[1].square().sum())))
"""


def test_the_last_token_of_an_unfilled_chunk_reaches_the_state_whole() -> None:
    """Sums of step sizes that are added in another order for the padding behind it would make a decay of their rounding."""
    done = subprocess.run([sys.executable, "-c", _SUMS], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout.splitlines()[-1])) < 5e-7


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "op",
    ["causal_conv1d", "selective_scan", "selective_state_update", "ssd", "mamba3", "mamba3_mimo", "mamba3_state_update",
     "norm", "mamba_inner", "cross_entropy"],
)
def test_every_option_of_an_op(op: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", f"tests/ops/test_{op}.py", "-k", "triton", "-q", "-m", "not slow", "--timeout=3000"]
    report = tmp_path / "report.xml"
    done = subprocess.run([*command, f"--junitxml={report}"], env=_environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:]
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [str(case.get("name")) for case in cases if case.find("skipped") is not None]
    # what is skipped is what the harness lets the backend turn away, and nothing else
    refused = {name for names in REFUSED["triton"].values() for name in names}
    assert not [name for name in skipped if not any(f"-{word}-" in f"-{name}-" for word in refused)]
    assert len(cases) - len(skipped) >= len(skipped)
