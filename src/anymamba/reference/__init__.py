"""The mathematics, slow and exact: what every backend and every test is held against. Imports nothing else of anymamba.

Every function has the signature of the public op of the same name, runs in the dtype it is given (float64 for tests), loops over
time step by step, and is differentiable by autograd alone.

Glossary (the names of the Mamba papers, used everywhere in this package)

    batch, length          sequences in a batch; tokens in a sequence
    d_model                width of the residual stream
    d_inner                width inside a mixer, expand * d_model: the channels of the scan
    d_state                N: states a channel (Mamba-1) or a head (Mamba-2) carries from token to token
    d_conv, width          taps of the causal depthwise convolution
    dt, delta              step size of the discretisation, one a channel (Mamba-1) or a head (Mamba-2) and token; positive after softplus
    dt_rank                width of the low-rank projection that makes delta (Mamba-1)
    A                      decay rates, negative: (d_inner, d_state) in Mamba-1, (nheads,) in Mamba-2; the parameter is A_log = log(-A)
    B, C                   input and output maps of the state, a function of the token: (batch, ngroups, d_state, length) in Mamba-1,
                           (batch, length, ngroups, d_state) in Mamba-2
    D                      skip connection from the scan's input to its output
    z                      gate: the output is multiplied by silu(z)
    nheads, headdim        Mamba-2: d_inner = nheads * headdim; one dt and one A a head
    ngroups                heads (channels) that share B and C form a group
    chunk                  tokens that a chunked algorithm handles at once
    seq_idx                (batch, length): which document a token belongs to; nothing flows between documents
    cu_seqlens             (sequences + 1,): borders of sequences packed into one row
    SSD                    state space duality: Mamba-2's scan as products of small matrices
    Q, K, V                Mamba-3's names of C, B and x: query, key and value of the state
    ADT, DT                A * dt and dt of Mamba-3, one a head and token
    Trap                   Mamba-3: logit of the share that the new token has in a step (the trapezoidal rule has 1/2, Euler's 1)
    Angles                 Mamba-3: how fast pairs of q and k turn; a complex-valued state written with real numbers
    vocabulary, logits     rows of the head's matrix; the scores that it gives them for a token
    SISO, MIMO, rank       one value and key a head and token, or rank of them (multiple input, multiple output)
"""

from __future__ import annotations

from typing import Any

OPS: dict[str, str] = {
    "causal_conv1d_fn": "anymamba.reference.causal_conv1d",
    "causal_conv1d_update": "anymamba.reference.causal_conv1d",
    "selective_scan_fn": "anymamba.reference.selective_scan",
    "mamba_inner_fn": "anymamba.reference.mamba_inner",
    "selective_state_update": "anymamba.reference.selective_state_update",
    "mamba_chunk_scan_combined": "anymamba.reference.ssd",
    "mamba_split_conv1d_scan_combined": "anymamba.reference.ssd_split",
    "mamba3_siso": "anymamba.reference.mamba3",
    "mamba3_mimo": "anymamba.reference.mamba3",
    "mamba3_state_update": "anymamba.reference.mamba3_state_update",
    "layer_norm_fn": "anymamba.reference.norm",
    "rms_norm_fn": "anymamba.reference.norm",
    "layernorm_fn": "anymamba.reference.norm_gated",
    "rmsnorm_fn": "anymamba.reference.norm_gated",
    "log_softmax_and_slope": "anymamba.reference.cross_entropy",
    "widened_product": "anymamba.reference.widened_product",
    "decode_step": "anymamba.reference.decode_step",
}


def available() -> tuple[bool, str]:
    return True, "exact and slow"


def supports(call: Any) -> tuple[bool, str]:
    """Every option of every op; the op modules import this name."""
    return True, "exact and slow"


def versions() -> str:
    return ""
