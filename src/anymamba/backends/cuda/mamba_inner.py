"""mamba_inner_fn with its scan in CUDA C++; convolution and memory are those of the Triton backend's mixer."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cuda import selective_scan
from anymamba.language import _


def supports(call: Call) -> tuple[bool, str]:
    """What the scan can and Triton's mixer too."""
    if importlib.util.find_spec("triton") is None:
        return False, _("its convolution needs triton, which is not installed")
    from anymamba.backends.triton.scan import mamba_inner

    ok, reason = mamba_inner.supports(call)
    return selective_scan.supports(call) if ok else (ok, reason)


def variant(call: Call) -> str:
    """That of the scan inside, and the taps of the convolution."""
    return f"{selective_scan.variant(_scan_of(call))}, {call.size('width', 4)} taps"


def probe(call: Call) -> list[dict[str, Any]]:
    """Sizes of the op's inputs that take the same variant."""
    names = "batch", "dim", "length", "d_state", "layout"
    return [{name: sizes[name] for name in names} | {"width": call.size("width", 4)} for sizes in selective_scan.probe(_scan_of(call))]


def _scan_of(call: Call) -> Call:
    """What the mixer asks of its scan: u and delta have channels side by side, z lies as half of xz does."""
    features = call.features & {"length_contiguous", "aligned"} | {"z", *(call.features & {"D", "delta_bias", "delta_softplus"})}
    return Call("selective_scan_fn", call.device, call.dtype, call.grad, features, call.sizes)


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
    mask: Tensor | None = None,
    changes: Mapping[str, Sequence[Any]] | None = None,
) -> Tensor:
    """See anymamba.ops.mamba_inner. xz: (batch, 2 * dim, length); fastest where the channel stride is 1."""
    from anymamba.backends.triton.scan.mamba_inner import mixer

    return mixer(
        selective_scan.SCAN, xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, D,
        delta_bias, delta_softplus, checkpoint_lvl, mask, changes,
    )  # fmt: skip
