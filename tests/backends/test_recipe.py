"""The recipe "Add a backend" of CONTRIBUTING.md, followed with a backend that nobody needs: what it says is true and enough.

The paths and names below are taken from the recipe's own words, so that a recipe that changes changes what is done here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.ops import harness

from anymamba import backends, ops
from anymamba.backends import REGISTRY, Entry, dispatch, selfcheck, table
from anymamba.backends.opspec import SPECS
from anymamba.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]

PACKAGE = '''"""Plaster: a backend that nobody needs."""

OPS = {"causal_conv1d_fn": "anymamba.backends.plaster.causal_conv1d"}


def available() -> tuple[bool, str]:
    return True, "plaster sticks everywhere"


def versions() -> str:
    return "plaster 1"
'''

OP = '''"""The convolution as torch has it, one file for the two ops of ops/causal_conv1d.py, of which this backend has one."""

import torch.nn.functional as F


def supports(call):
    if call.features & {"seq_idx", "initial_states", "return_final_states", "final_states_out"}:
        return False, "plaster keeps no states"
    return True, "plaster"


def variant(call):
    return "thick" if call.size("width") > 2 else "thin"


def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
                     activation=None):
    wide = x.double() if x.dtype.itemsize > 2 else x.float()
    bias = None if bias is None else bias.to(wide.dtype)
    y = F.conv1d(F.pad(wide, (weight.shape[1] - 1, 0)), weight.to(wide.dtype).unsqueeze(1), bias, groups=x.shape[1])
    return (y if activation is None else F.silu(y)).to(x.dtype)
'''


def steps() -> list[str]:
    """The numbered steps of the recipe, each in one line."""
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Add a backend\n")[1].split("\n## ")[0].strip().split("\n\n")[0]
    return [" ".join(step.split()) for step in re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]]


Follow = Callable[..., None]


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Follow]:
    """All steps, in a copy of the tree that has nothing but what they add."""
    first, second, third = steps()
    path = re.search(r"`(src/anymamba/backends/<name>/__init__\.py)`", first)
    assert path and all(f"`{word}" in first for word in ("OPS", "available() -> (bool, reason)", "versions()"))
    assert "named like the op's file in `ops/`" in second and "`supports(call) -> (bool, reason)`" in second
    assert "One line in `backends/__init__.py`, at the place of its preference" in third

    def write(package: str = PACKAGE, op: str = OP) -> None:
        file = tmp_path / path[1].replace("<name>", "plaster")
        file.parent.mkdir(parents=True)
        file.write_text(package)
        (file.parent / "causal_conv1d.py").write_text(op)
        monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(file.parents[1])])
        line = {"plaster": Entry("plaster", "anymamba.backends.plaster")}
        for module in (dispatch, backends, table, harness):
            if hasattr(module, "REGISTRY"):
                monkeypatch.setattr(module, "REGISTRY", {**line, **REGISTRY})
        monkeypatch.setattr(selfcheck, "_verdicts", {})
        dispatch.forget()

    yield write
    for name in [name for name in sys.modules if name.startswith("anymamba.backends.plaster")]:
        del sys.modules[name]
    selfcheck._digests.pop("anymamba.backends.plaster", None)
    dispatch.forget()


X, WEIGHT = torch.randn(2, 5, 9), torch.randn(5, 3)


def test_the_dispatcher_trusts_it_after_its_check_and_leaves_it_what_it_lacks(follow: Follow) -> None:
    follow()
    y = ops.causal_conv1d_fn(X, WEIGHT)
    assert dispatch.decided()["causal_conv1d_fn"] == "plaster"
    torch.testing.assert_close(y, ops.causal_conv1d_fn(X, WEIGHT, backend="torch"))
    ops.causal_conv1d_fn(X, WEIGHT, return_final_states=True)
    ops.rms_norm_fn(X, torch.ones(9), None)
    assert "plaster" not in dispatch.decided()["rms_norm_fn"]
    cells = table.decide(torch.device("cpu"), torch.float32)["causal_conv1d_fn"]
    assert cells["plaster"]["chosen"] and cells["plaster"]["variant"] == "thick"


def test_the_tests_find_it_and_hold_it_against_the_reference(follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    follow()
    assert "plaster" in harness.backends()
    case = harness.Case("causal_conv1d_fn", "typical", SPECS["causal_conv1d_fn"].build())
    harness.check(case, "plaster", torch.float32, monkeypatch)


def test_a_wrong_kernel_is_refused_and_only_its_variant(follow: Follow) -> None:
    follow(op=OP.replace("groups=x.shape[1])", "groups=x.shape[1]) + (weight.shape[1] > 2)"))
    with pytest.raises(BackendError, match="self-check failed"):
        ops.causal_conv1d_fn(X, WEIGHT, backend="plaster")
    ops.causal_conv1d_fn(X, WEIGHT[:, :2].contiguous(), backend="plaster")


BROKEN: list[tuple[str, str, str]] = [
    (PACKAGE.replace("OPS =", "ROWS ="), OP, "the package has OPS"),
    (PACKAGE.replace('{"causal_conv1d_fn"', '{"conv_9d"'), OP, r"OPS names ops that exist \(.*rms_norm_fn.*not \['conv_9d'\]"),
    (PACKAGE.replace("def versions", "def version"), OP, r"the package has versions\(\)"),
    (PACKAGE.replace("def available", "def here"), OP, r"the package has available\(\)"),
    (PACKAGE.replace('True, "plaster sticks everywhere"', "True"), OP, r"available\(\) returns \(bool, reason\)"),
    (PACKAGE, OP.replace("def causal_conv1d_fn", "def conv"), "plaster.causal_conv1d has a function causal_conv1d_fn"),
    (PACKAGE, OP.replace("def supports", "def support"), r"plaster.causal_conv1d has supports\(call\)"),
    (PACKAGE, OP.replace('return True, "plaster"', "return True"), r"supports\(call\) returns \(bool, reason\)"),
    (PACKAGE, OP.replace("                     activation=None):", "                     ):\n    activation = None"), "activation too"),
]  # fmt: skip


@pytest.mark.parametrize(("package", "op", "rule"), BROKEN, ids=[rule for *_, rule in BROKEN])
def test_a_broken_backend_is_named_with_the_rule(follow: Follow, package: str, op: str, rule: str) -> None:
    follow(package, op)
    with pytest.raises(BackendError, match=f"'plaster' breaks the contract of backends: .*{rule}"):
        ops.causal_conv1d_fn(X, WEIGHT, activation="silu", backend="plaster")
    ops.causal_conv1d_fn(X, WEIGHT, activation="silu")  # whoever comes next serves


def test_an_unknown_backend_lists_those_there_are() -> None:
    with pytest.raises(BackendError, match="'mortar'") as caught:
        ops.causal_conv1d_fn(X, WEIGHT, backend="mortar")
    assert all(name in str(caught.value) for name in REGISTRY)
