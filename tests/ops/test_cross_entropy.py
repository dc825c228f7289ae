"""log_softmax_and_slope on every backend, and values that only a softmax can go wrong on."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.backends import fake
from tests.ops import layouts
from tests.ops.harness import Case, backends, check, device_of, parametrize, skip_unless_here
from torch import Tensor

from anymamba import errors, ops
from anymamba.backends import dispatch
from anymamba.backends.opspec import Build
from anymamba.errors import AnymambaWarning, ArgumentError, ArgumentTypeError
from anymamba.ops.cross_entropy import build


def logits(tokens: int = 5, vocabulary: int = 100, size: float = 2.0, **options: Any) -> Build:
    return build(tokens, vocabulary, size, **options)

CASES = [
    Case("log_softmax_and_slope", name, build, views, forward_only=True)
    for name, build, views in [
        ("a-vocabulary", logits(3, 50280, size=4.0), {}),
        ("chosen-only", logits(slope=False), {}),
        ("one-word", logits(vocabulary=1), {}),
        ("two-words", logits(vocabulary=2), {}),
        ("odd-vocabulary", logits(4, 8197), {}),
        ("one-block", logits(2, 8192), {}),
        ("one-token", logits(1, 257), {}),
        ("rows-apart", logits(vocabulary=120, cut=20), {"logits": lambda x: x[:, :100]}),
        ("odd-address", logits(vocabulary=120, cut=3), {"logits": layouts.offset}),
        ("every-second-row", logits(6, 72), {"logits": lambda x: x[::2], "targets": lambda t: t[::2]}),
        ("large", logits(size=60.0), {}),
        ("far-below-zero", logits(4, 9000, shift=-3000.0), {}),
        ("far-above-zero-int32", logits(shift=3000.0, ids=torch.int32), {}),
        ("a-huge-vocabulary", logits(2, 300_000, size=4.0), {}),
    ]
]  # fmt: skip


@parametrize(CASES)
def test_values_and_slopes(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


@pytest.mark.parametrize("backend", [*backends(), "reference"])
def test_infinite_and_undefined_logits(backend: str) -> None:
    """-inf is a word that cannot come; NaN and inf give NaN in their own row only. The first 8192 columns are a kernel's first block."""
    skip_unless_here(backend)
    if backend == "cpu":
        pytest.skip("left to torch")
    device = device_of(backend)
    x = torch.randn(7, 9001, generator=torch.Generator().manual_seed(0))
    targets = torch.full((7,), 8900)
    x[0, :8500] = -torch.inf
    x[1, 8300:8900] = -torch.inf
    x[2] = -torch.inf
    x[3, 17] = torch.nan
    x[4, 8999] = torch.inf
    x[5, 8900] = -torch.inf
    x[6] = -1e30
    exact = x.double().requires_grad_()
    want = F.log_softmax(exact, -1).gather(1, targets[:, None])[:, 0]
    (slope,) = torch.autograd.grad(-want.sum(), exact)
    got = x.to(device)
    chosen = ops.log_softmax_and_slope(got, targets.to(device), True, backend=backend)
    torch.testing.assert_close(chosen.cpu(), want.detach().float(), equal_nan=True, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.cpu()[[0, 1, 5, 6]], slope.float()[[0, 1, 5, 6]], rtol=1e-5, atol=1e-6)
    assert got.cpu()[[2, 3, 4]].isnan().any(1).all() and chosen.cpu().isnan().tolist() == [False, False, True, True, True, False, False]


def test_float64_stays_float64() -> None:
    x = torch.randn(4, 50, dtype=torch.float64)
    targets = torch.tensor([0, 3, 49, 7])
    want = F.log_softmax(x, -1)
    slope = want.exp() - F.one_hot(targets, 50)
    chosen = ops.log_softmax_and_slope(x, targets, True)
    torch.testing.assert_close(chosen, want.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(x, slope)


def test_logits_are_only_read_without_slope() -> None:
    x = torch.randn(4, 50)
    before = x.clone()
    ops.log_softmax_and_slope(x, torch.zeros(4, dtype=torch.int64), False)
    assert torch.equal(x, before)


def test_no_gradient_passes() -> None:
    x = torch.randn(4, 50, requires_grad=True)
    assert not ops.log_softmax_and_slope(x, torch.zeros(4, dtype=torch.int64), True).requires_grad


def test_no_tokens() -> None:
    assert ops.log_softmax_and_slope(torch.zeros(0, 9), torch.zeros(0, dtype=torch.int64), True).shape == (0,)


@pytest.mark.parametrize(
    "change,kind,words",
    [
        ({"logits": torch.randn(4, 50, 1)}, ArgumentError, ["logits", "(4, 50, 1)", "(tokens, vocabulary)"]),
        ({"logits": torch.randn(50, 4).t()}, ArgumentError, ["logits.stride()", "(1, 4)"]),
        ({"logits": torch.randn(1, 50).expand(4, 50)}, ArgumentError, ["logits.stride()", "(0, 1)"]),
        ({"logits": torch.randn(4, 0)}, ArgumentError, ["vocabulary", "0"]),
        ({"logits": torch.ones(4, 50, dtype=torch.int64)}, ArgumentTypeError, ["logits", "int64"]),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, ArgumentError, ["targets", "(3,)"]),
        ({"targets": torch.zeros(4)}, ArgumentTypeError, ["targets", "float32"]),
        ({"targets": torch.full((4,), 50)}, ArgumentError, ["max(targets)", "50", "vocabulary"]),
        ({"targets": torch.tensor([0, 1, -100, 2])}, ArgumentError, ["min(targets)", "-100"]),
    ],
)
def test_wrong_arguments_are_named(
    change: dict[str, Tensor], kind: type[Exception], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYMAMBA_LANG", "en")
    good = {"logits": torch.randn(4, 50), "targets": torch.arange(4)}
    with pytest.raises(kind) as caught:
        ops.log_softmax_and_slope(**{**good, **change}, slope=True)
    for word in ("log_softmax_and_slope", *words):
        assert word in str(caught.value)


_ON_CPU = """
import warnings
warnings.simplefilter("error")
import torch
from anymamba import ops
from anymamba.backends import dispatch
ops.log_softmax_and_slope(torch.randn(4, 50), torch.arange(4), True)
print([(choice.backend, dict(choice.rejected)["cpu"]) for _, choice in dispatch.choices_made()])
"""


def test_a_processor_is_served_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cpu backend leaves the op to PyTorch on purpose."""
    monkeypatch.setenv("ANYMAMBA_LANG", "en")
    monkeypatch.delenv("ANYMAMBA_BACKEND", raising=False)
    done = subprocess.run([sys.executable, "-c", _ON_CPU], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[('torch', 'plain PyTorch is as fast here')]"


def test_a_backend_that_has_the_op_and_cannot_run_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Triton's is on a GPU, where plain PyTorch is several times slower."""
    monkeypatch.setattr(errors, "_said", set())
    fake.install(monkeypatch, "ours", {"log_softmax_and_slope": lambda *_: None}, supports=lambda call: (False, "no such kernel"))
    with pytest.warns(AnymambaWarning, match="no such kernel"):
        ops.log_softmax_and_slope(torch.randn(4, 50), torch.arange(4), True)
    fake.install(monkeypatch, "others", {"rms_norm_fn": lambda *_: None})
    with pytest.warns(AnymambaWarning, match="'others'"):
        ops.log_softmax_and_slope(torch.randn(4, 50), torch.arange(4), True)
    package = fake.install(monkeypatch, "silent", {"rms_norm_fn": lambda *_: None})
    package.LEFT_TO_TORCH = frozenset({"log_softmax_and_slope"})  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnymambaWarning)
        monkeypatch.setattr(errors, "_said", {key for key in errors._said if ":silent:" not in key})
        ops.log_softmax_and_slope(torch.randn(4, 50), torch.arange(4), True)
    dispatch.forget()


def test_a_backend_chosen_by_name_leaves_it_to_torch_where_it_lacks_it_on_purpose() -> None:
    """Else `--backend cpu` could not train."""
    logits, targets = torch.randn(4, 50), torch.arange(4)
    want = ops.log_softmax_and_slope(logits.clone(), targets, True, backend="torch")
    torch.testing.assert_close(ops.log_softmax_and_slope(logits, targets, True, backend="cpu"), want)
