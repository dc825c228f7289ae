"""Mamba-1 (Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces").

Parameters are named like those of transformers' MambaForCausalLM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba import ops
from anymamba.models.cache import LayerState
from anymamba.models.config import Config
from anymamba.models.linear import Linear
from anymamba.models.packing import Documents, scan_documents
from anymamba.ops.projection import linear


@dataclass
class MambaConfig(Config):
    time_step_scale: float = 1.0
    time_step_init_scheme: str = "random"

    model_type: ClassVar[str] = "mamba"
    architecture: ClassVar[str] = "MambaForCausalLM"

    def state_shapes(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (batch, self.d_inner, self.conv_kernel - 1), (batch, self.d_inner, self.state_size)


class MambaMixer(nn.Module):
    """(batch, length, d_model) -> (batch, length, d_model)."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        d_inner, rank = config.d_inner, int(config.time_step_rank)
        self.in_proj = Linear(config.hidden_size, 2 * d_inner, bias=config.use_bias)
        self.conv1d = nn.Conv1d(d_inner, d_inner, config.conv_kernel, groups=d_inner, bias=config.use_conv_bias)
        self.x_proj = Linear(d_inner, rank + 2 * config.state_size, bias=False)
        self.dt_proj = Linear(rank, d_inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(d_inner, config.state_size))
        self.D = nn.Parameter(torch.empty(d_inner))
        self.out_proj = Linear(d_inner, config.hidden_size, bias=config.use_bias)
        # upstream's marks: decay of these would move the time scales of the state, not regularise
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def init_parameters(self) -> None:
        """S4D-real A, dt log-uniform in [time_step_min, time_step_max] (mamba_ssm ``Mamba.__init__``); the linear layers and
        the convolution keep torch's defaults."""
        config = self.config
        states = torch.arange(1, config.state_size + 1, dtype=torch.float32, device=self.A_log.device)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        self.D.fill_(1.0)
        bound = int(config.time_step_rank) ** -0.5 * config.time_step_scale
        if config.time_step_init_scheme == "constant":
            self.dt_proj.weight.fill_(bound)
        else:
            self.dt_proj.weight.uniform_(-bound, bound)
        self.dt_proj.bias.copy_(random_dt_bias(config, self.dt_proj.bias))

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        documents: Documents | None = None,
        state: LayerState | None = None,
    ) -> Tensor:
        """mask: (batch, length, 1), 0 at padding. state: continued from and updated in place."""
        if state is not None and hidden.shape[1] == 1:
            return self._step(hidden, state)
        if mask is None and documents is None and state is None and self.fused:
            return self._fused(hidden)
        if mask is not None:
            hidden = hidden * mask
        # (batch, length, d_inner) in memory; the ops see it as (batch, d_inner, length) without a copy
        x, z = (part.transpose(1, 2) for part in self.in_proj(hidden).chunk(2, dim=-1))
        x = convolve(x, self.conv1d, documents, state)
        if mask is not None:
            x = x * mask.transpose(1, 2)
        dt, B, C = self.project(x)
        A, D, bias = -torch.exp(self.A_log.float()), self.D.float(), self.dt_proj.bias.float()
        if state is not None:
            y = scan_with_state(x, dt, A, B, C, D, z, bias, state)
        elif documents is not None:
            y = scan_documents(x, dt, A, B, C, D, z, bias, documents)
        else:
            y = ops.selective_scan_fn(x, dt, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True)  # type: ignore[assignment]
        return self.out_proj(y.transpose(1, 2))

    fused = True
    """Whether ``mamba_inner_fn`` computes this mixer."""

    def _fused(self, hidden: Tensor) -> Tensor:
        return ops.mamba_inner_fn(
            self.in_proj(hidden).transpose(1, 2),
            self.conv1d.weight,
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.out_proj.weight,
            self.out_proj.bias,
            -torch.exp(self.A_log.float()),
            D=self.D.float(),
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
            checkpoint_lvl=0,  # whole blocks are recomputed where memory is short, see Backbone.gradient_checkpointing
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (batch, d_inner, length) -> dt before bias and softplus (batch, d_inner, length), B, C (batch, d_state, length)."""
        n = self.config.state_size
        low_rank, B, C = self.x_proj(x.transpose(1, 2)).split([int(self.config.time_step_rank), n, n], dim=-1)
        dt = linear(low_rank, self.dt_proj.weight)
        return dt.transpose(1, 2), B.transpose(1, 2), C.transpose(1, 2)

    def _step(self, hidden: Tensor, state: LayerState) -> Tensor:
        x, z = self.in_proj(hidden[:, 0]).chunk(2, dim=-1)
        x = convolve_step(x, self.conv1d, state)
        dt, B, C = self.project(x.unsqueeze(-1))
        if "A" not in state.constants:
            state.constants.update(A=-torch.exp(self.A_log.float()), D=self.D.float(), bias=self.dt_proj.bias.float())
        A, D, bias = (state.constants[name] for name in ("A", "D", "bias"))
        y = ops.selective_state_update(
            state.ssm, x, dt[..., 0], A, B[..., 0], C[..., 0], D, z=z, dt_bias=bias, dt_softplus=True
        )
        return self.out_proj(y).unsqueeze(1)


def random_dt_bias(config: Config, like: Tensor) -> Tensor:
    """Values whose softplus is log-uniform in [time_step_min, time_step_max], at least time_step_floor."""
    low, high = math.log(config.time_step_min), math.log(config.time_step_max)
    dt = torch.exp(torch.rand(like.shape, device=like.device) * (high - low) + low).clamp(min=config.time_step_floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def convolve(x: Tensor, conv1d: nn.Conv1d, documents: Documents | None, state: LayerState | None) -> Tensor:
    """Causal depthwise convolution and SiLU of (batch, channels, length); the state is what stood before, and is updated."""
    weight = conv1d.weight.squeeze(1)
    if state is None:
        seq_idx = None if documents is None else documents.seq_idx
        y: Any = ops.causal_conv1d_fn(x, weight, conv1d.bias, seq_idx=seq_idx, activation="silu")
        return y
    before = state.conv.to(x.dtype) if state.used else None
    y, after = ops.causal_conv1d_fn(
        x, weight, conv1d.bias, initial_states=before, return_final_states=True, activation="silu"
    )
    state.conv.copy_(after.detach())
    return y


def convolve_step(x: Tensor, conv1d: nn.Conv1d, state: LayerState) -> Tensor:
    """The same for one token: x (batch, channels)."""
    stored = x.to(state.conv.dtype)
    y = ops.causal_conv1d_update(stored, state.conv, conv1d.weight.squeeze(1), conv1d.bias, activation="silu")
    return y.to(x.dtype)


_PREFIX_DT = 2.0**-40


def scan_with_state(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor, state: LayerState
) -> Tensor:
    """``selective_scan_fn`` from a given state, which it updates in place.

    The op starts from zero. An earlier state is put in through d_state extra tokens in front: token j has B = e_j and a step
    so short that nothing decays in it, so ``dt * x`` of that token, channel by channel, becomes column j of the state.
    """
    if not state.used:
        y, last = ops.selective_scan_fn(
            x, dt, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True, return_last_state=True
        )
    else:
        batch, channels, n = state.ssm.shape
        dt = F.softplus(dt.float() + bias[:, None])
        prefix_dt = dt.new_full((batch, channels, n), _PREFIX_DT)
        unit = torch.eye(n, device=x.device, dtype=torch.float32).expand(batch, n, n)
        y, last = ops.selective_scan_fn(
            torch.cat([state.ssm / _PREFIX_DT, x.float()], dim=-1),
            torch.cat([prefix_dt, dt], dim=-1),
            A,
            torch.cat([unit, B.float()], dim=-1),
            torch.cat([torch.zeros_like(unit), C.float()], dim=-1),
            return_last_state=True,
        )
        y = ((y[..., n:] + D[:, None] * x.float()) * F.silu(z.float())).to(x.dtype)
    state.ssm.copy_(last.detach())
    return y
