"""The public operations of Mamba-1, Mamba-2 and Mamba-3, signature for signature those of mamba_ssm and causal_conv1d, on every device.

Each checks its arguments, asks ``anymamba.backends.dispatch`` which backend serves the call, and runs it there. One keyword more than
upstream: ``backend`` names a backend for this call. Names of axes and parameters: the glossary in ``anymamba.reference``.
"""

from __future__ import annotations

from anymamba.ops.causal_conv1d import causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states
from anymamba.ops.cross_entropy import log_softmax_and_slope
from anymamba.ops.decode_step import decode_step
from anymamba.ops.mamba3 import mamba3_siso, mamba3_siso_combined, mamba3_siso_step
from anymamba.ops.mamba3_mimo import mamba3_mimo
from anymamba.ops.mamba3_rotation import angle_dt_fwd, apply_rotary_qk_inference_fwd
from anymamba.ops.mamba3_state_update import mamba3_state_update, mamba3_step_fn
from anymamba.ops.mamba_inner import mamba_inner_fn
from anymamba.ops.norm import layer_norm_fn, rms_norm_fn
from anymamba.ops.norm_gated import layernorm_fn, rmsnorm_fn
from anymamba.ops.selective_scan import selective_scan_fn
from anymamba.ops.selective_state_update import selective_state_update
from anymamba.ops.ssd import mamba_chunk_scan_combined
from anymamba.ops.ssd_split import mamba_split_conv1d_scan_combined
from anymamba.ops.widened_product import widened_product

__all__ = [
    "angle_dt_fwd",
    "apply_rotary_qk_inference_fwd",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "causal_conv1d_varlen_states",
    "decode_step",
    "layer_norm_fn",
    "layernorm_fn",
    "log_softmax_and_slope",
    "mamba3_mimo",
    "mamba3_siso",
    "mamba3_siso_combined",
    "mamba3_siso_step",
    "mamba3_state_update",
    "mamba3_step_fn",
    "mamba_chunk_scan_combined",
    "mamba_inner_fn",
    "mamba_split_conv1d_scan_combined",
    "rms_norm_fn",
    "rmsnorm_fn",
    "selective_scan_fn",
    "selective_state_update",
    "widened_product",
]
