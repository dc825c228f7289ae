"""The softmax under a language model's cross-entropy: what the loss needs of a block of logits, and what its gradient needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.dispatch import choose
from anymamba.backends.opspec import Arguments, Build, OpSpec, Random, register
from anymamba.language import _
from anymamba.ops.calls import checks, compiled


def _shapes(logits: Tensor, targets: Tensor, **_: Any) -> list[Tensor]:
    return [torch.empty(targets.shape, dtype=compiled.state_dtype(logits), device=logits.device)]


@compiled.as_node(_shapes, changes="logits")
def log_softmax_and_slope(logits: Tensor, targets: Tensor, slope: bool, *, backend: str | None = None) -> Tensor:
    """log softmax(logits)[target] of each row; with slope, logits become d(-that) / d(logits) = softmax(logits) - onehot(target).

    Upstream has no such op; the formula is that of the gradient of ``torch.nn.functional.cross_entropy``.

    logits: (tokens, vocabulary), floating, the last stride 1, overwritten in place in its own dtype with slope, else only read.
    targets: (tokens,), int64 or int32, 0 <= target < vocabulary: checked on the CPU; elsewhere one outside gives NaN or
    the device's own error.

    Returns the targets' log-probabilities in nats, (tokens,), float32 (float64 for float64), in which all is computed.
    A row with a NaN gives NaN. No gradient passes.
    Raises ArgumentError (shapes, strides, a target outside the vocabulary), ArgumentTypeError (dtypes, devices), BackendError.
    """
    op = "log_softmax_and_slope"
    checks.tensors(op, {"logits": logits}, {}, {"targets": targets})
    checks.shape(op, "logits", logits, "(tokens, vocabulary)", (-1, -1))
    tokens, vocabulary = logits.shape
    checks.shape(op, "targets", targets, "(tokens,)", (tokens,))
    checks.value(op, "vocabulary", vocabulary, vocabulary >= 1, ">= 1")
    row, column = logits.stride()
    apart = (vocabulary == 1 or column == 1) and (tokens <= 1 or row >= vocabulary)
    checks.value(op, "logits.stride()", (row, column), apart, _("(>= vocabulary, 1)"))
    checks.indices_below(op, "targets", targets, vocabulary, "vocabulary", padding=False)
    if not tokens:
        return torch.empty(0, dtype=compiled.state_dtype(logits), device=logits.device)
    arguments = (logits, targets, bool(slope))
    if torch.compiler.is_compiling():
        return compiled.run(op, arguments, backend)
    call = Call(op, logits.device, logits.dtype, False, checks.features(slope=bool(slope)))
    function = choose(call, backend).function
    if torch.is_grad_enabled():
        with torch.no_grad():
            return function(*arguments)
    return function(*arguments)


def build(
    tokens: int = 3, vocabulary: int = 8219, size: float = 4.0, shift: float = 0.0, slope: bool = True, cut: int = 0,
    ids: torch.dtype = torch.int64,
) -> Build:  # fmt: skip
    """size, shift: of the logits; with 4 a few words are likely, or wrong probabilities of the others would not be seen. Unless said
    otherwise, a row is longer than one block of a kernel. cut: columns that a view of the caller takes off, which are no targets."""

    def inputs(random: Random) -> Arguments:
        targets = torch.arange(tokens) * 7919 % (vocabulary - cut)
        targets[-1] = vocabulary - cut - 1
        return {"logits": random(tokens, vocabulary) * size + shift, "targets": targets.to(ids), "slope": slope}

    return inputs


SPEC = register(
    OpSpec(
        log_softmax_and_slope,
        build,
        inplace=("logits",),
        forward_cases={
            "odd vocabulary": build(5, 1030, 2.0),
            "large logits": build(5, 300, size=60.0),
            "far from zero": build(3, 8200, 2.0, shift=-3000.0),
            "only the log-probabilities": build(5, 300, 2.0, slope=False),
            "one word": build(3, 1, 2.0),
        },
    )
)
