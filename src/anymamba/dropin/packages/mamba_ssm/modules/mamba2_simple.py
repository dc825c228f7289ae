"""The Mamba-2 mixer of the paper: training only, without cache and sharding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.dropin.borrowed import borrowed

from ..ops.triton.layernorm_gated import RMSNorm as RMSNormGated
from ..ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
from .mamba_simple import initial_dt_bias, marked
from .modules_as_weights import called, convolved, fusible


class Mamba2Simple(nn.Module):
    """(batch, length, d_model) to the same shape. Parameters: in_proj (rows z, x, B, C, dt), conv1d, init_states (nheads, headdim,
    d_state) if they are learned, dt_bias, A_log and D (nheads,), norm, out_proj. Source: Mamba-2, section 7."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: int = 2,
        headdim: int = 128,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        learnable_init_states: bool = False,
        activation: str = "swish",
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.conv_init, self.expand = d_model, d_state, d_conv, conv_init, expand
        self.d_inner, self.headdim, self.ngroups = expand * d_model, headdim, ngroups
        assert self.d_inner % headdim == 0, f"headdim ({headdim}) must divide expand * d_model ({self.d_inner})"
        assert 0 < A_init_range[0] <= A_init_range[1], f"A_init_range must be positive and ascending, not {A_init_range}"
        self.nheads = self.d_inner // headdim
        self.dt_limit, self.learnable_init_states, self.activation = dt_limit, learnable_init_states, activation
        self.chunk_size, self.use_mem_eff_path, self.layer_idx = chunk_size, use_mem_eff_path, layer_idx
        factory_kwargs: dict[str, Any] = {"device": device, "dtype": dtype}
        convolved = self.d_inner + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, self.d_inner + convolved + self.nheads, bias=bias, **factory_kwargs)
        self.conv1d = nn.Conv1d(convolved, convolved, d_conv, groups=convolved, padding=d_conv - 1, bias=conv_bias, **factory_kwargs)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        if learnable_init_states:
            self.init_states = marked(nn.Parameter(torch.zeros(self.nheads, headdim, d_state, **factory_kwargs)), "_no_weight_decay")
        self.act = nn.SiLU()
        dt_bias = initial_dt_bias(self.nheads, dt_min, dt_max, dt_init_floor, **factory_kwargs)
        self.dt_bias = marked(nn.Parameter(dt_bias), "_no_weight_decay")
        A = torch.empty(self.nheads, dtype=torch.float32, device=device).uniform_(*A_init_range)
        self.A_log = marked(nn.Parameter(A.log().to(dtype)), "_no_weight_decay")
        self.D = marked(nn.Parameter(torch.ones(self.nheads, device=device)), "_no_weight_decay")
        self.norm = RMSNormGated(self.d_inner, eps=1e-5, norm_before_gate=False, **factory_kwargs)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory_kwargs)

    def forward(self, u: Tensor, seq_idx: Tensor | None = None) -> Tensor:
        """u: (batch, length, d_model); seq_idx: (batch, length), the document of each token."""
        zxbcdt, A = called(self.in_proj, u), -torch.exp(self.A_log.float())
        first = self.init_states.expand(u.shape[0], -1, -1, -1) if self.learnable_init_states else None
        weights = fusible(self, "conv1d", "out_proj", "norm") if self.use_mem_eff_path else None
        if weights is not None:
            conv1d, out_proj, norm = weights
            return mamba_split_conv1d_scan_combined(
                zxbcdt, conv1d.weight[:, 0], conv1d.bias, self.dt_bias, A, D=self.D, chunk_size=self.chunk_size,
                initial_states=first, seq_idx=seq_idx, dt_limit=self.dt_limit, activation=self.activation,
                rmsnorm_weight=norm.weight, rmsnorm_eps=self.norm.eps, outproj_weight=out_proj.weight,
                outproj_bias=out_proj.bias, headdim=self.headdim, ngroups=self.ngroups, norm_before_gate=False,
            )  # fmt: skip
        states = self.ngroups * self.d_state
        z, xBC, dt = zxbcdt.split([self.d_inner, self.d_inner + 2 * states, self.nheads], dim=-1)
        mixed = convolved(self, xBC.mT, seq_idx).mT
        x, B, C = mixed.split([self.d_inner, states, states], dim=-1)
        y = mamba_chunk_scan_combined(
            x.unflatten(2, (self.nheads, self.headdim)), F.softplus(dt + self.dt_bias), A,
            B.unflatten(2, (self.ngroups, self.d_state)), C.unflatten(2, (self.ngroups, self.d_state)),
            chunk_size=self.chunk_size, D=self.D, initial_states=first, seq_idx=seq_idx, dt_limit=self.dt_limit,
        )  # fmt: skip
        return called(self.out_proj, self.norm(y.flatten(2), z))


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; from .convolution import causal_conv1d_fn"
    "; from ..ops.triton.layernorm_gated import LayerNorm",
)
