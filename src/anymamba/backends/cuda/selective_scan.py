"""selective_scan_fn on kernels in CUDA C++. Two families of them: one walks along channels that lie side by side in memory and is made for
the 16 states of the published models, the other along steps that lie side by side, with any number of states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cuda import nvrtc
from anymamba.backends.cuda import selective_scan_channels as prepared_channels
from anymamba.backends.cuda import selective_scan_channels_backward as channels_backward
from anymamba.backends.cuda import selective_scan_launch as by_channels
from anymamba.backends.cuda import selective_scan_rows as prepared
from anymamba.backends.cuda import selective_scan_rows_launch as by_rows
from anymamba.backends.cuda.selective_scan_documents import marks_of
from anymamba.backends.cuda.selective_scan_variants import probe, variant
from anymamba.backends.refusal import NotCompiled
from anymamba.backends.scan_node import Scan, groups_differ, selective_scan
from anymamba.language import _

__all__ = ["SCAN", "probe", "selective_scan_fn", "supports", "variant"]

LARGEST_STATE = 256


def supports(call: Call) -> tuple[bool, str]:
    """All but a complex A, more than 256 states, and float64 among the tensors."""
    ok, reason = nvrtc.usable(call.device)
    if not ok:
        return ok, reason
    if call.dtype not in by_rows.TYPES:
        name = str(call.dtype).removeprefix("torch.")
        return False, _("has float32, bfloat16 and float16 kernels, not {name}").format(name=name)
    if "complex_A" in call.features:
        return False, _("has no kernel for complex A")
    other = sorted(feature for feature in call.features if feature.startswith("float64_"))
    if other:
        return False, _("has no kernel for {other}").format(other=", ".join(other))
    if call.size("d_state") > LARGEST_STATE:
        return False, _("d_state is at most {largest}").format(largest=LARGEST_STATE)
    return True, reason


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See anymamba.ops.selective_scan.selective_scan. u, delta, z: (batch, d_inner, length); with a stride of 1 for channels or for steps
    nothing is copied, of packed documents and from a state with one for steps."""
    marks = None if seq_idx is None else marks_of(seq_idx)
    return selective_scan(SCAN, u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, initial_states, marks)


def _prepare(*arguments: Any) -> prepared.PreparedScan | prepared_channels.PreparedChannels | None:
    """For dispatch.remember: arguments of selective_scan_fn, and whether gradients are needed."""
    u, delta, A, B, C, _, z, *rest = arguments
    try:
        if groups_differ(B, C) or len(rest) > 4:  # from a state, or documents
            return None
        return (prepared_channels if by_channels.suits(u, delta, A, B, C, z) else prepared).prepare(*arguments)
    except NotCompiled:
        return None  # the call itself meets it, and says so


selective_scan_fn.prepare = _prepare  # type: ignore[attr-defined]


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    return_last_state: bool,
    training: bool,
    initial: Tensor | None = None,
    marks: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, by_channels.ChannelsPlan | by_rows.RowsPlan]:
    """out, last state or None, with training the states that backward starts from, and backward's plan. Raises NotCompiled, also for a
    kernel that only backward needs."""
    tensors = u, delta, A, B, C, D, z, delta_bias
    if initial is None and marks is None and by_channels.suits(u, delta, A, B, C, z):
        batch, channels, length = u.shape
        packed = B.element_size() == C.element_size() == 2
        plan = by_channels.forward_plan(batch, channels, length, u.device, packed)
        back = by_channels.backward_plan(batch, channels, length, u.device)
        if training:
            channels_backward.compile_backward(*tensors, softplus, back)
        return *by_channels.scan_forward(*tensors, softplus, return_last_state, back.window if training else 0, plan), back
    sizes = by_rows.Sizes.of(u, B, C, A.shape[1])
    back_rows = by_rows.backward_plan(sizes)
    every = back_rows.tile if training else 0
    rows = by_rows.as_rows(*tensors)
    beyond = initial is not None, marks is not None
    if training:
        by_rows.compile_backward(rows, softplus, back_rows, beyond)
    launch = by_rows.forward_launch(rows, softplus, return_last_state, every, by_rows.forward_plan(sizes), beyond)
    state = None if initial is None else initial.to(torch.float32).contiguous()
    return *by_rows.run_forward(launch, rows, state, marks), back_rows


def backward(
    dout: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    states: Tensor,
    plan: by_channels.ChannelsPlan | by_rows.RowsPlan,
    dz: Tensor | None = None,
    marks: Tensor | None = None,
    dinitial: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias. dz: memory for z's, which the kernels for channels use where its rows lie at
    16-byte borders. dinitial: for the initial state's."""
    tensors = u, delta, A, B, C, D, z, delta_bias
    if isinstance(plan, by_channels.ChannelsPlan):
        return channels_backward.scan_backward(dout, *tensors, softplus, states, plan, dz)
    return by_rows.scan_backward(dout, *tensors, softplus, states, plan, marks, dinitial)


SCAN = Scan(forward, backward)
