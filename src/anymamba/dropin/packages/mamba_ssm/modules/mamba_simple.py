"""The Mamba-1 mixer."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.dropin.borrowed import borrowed
from anymamba.models import plain
from anymamba.ops.projection import linear

from ..ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
from ..ops.triton.selective_state_update import selective_state_update
from . import segments
from .block import Block as Block  # older code imports it from here
from .modules_as_weights import called, convolved, convolved_step, fusible


class Mamba(nn.Module):
    """(batch, length, d_model) to the same shape. Parameters: in_proj, conv1d, x_proj, dt_proj, A_log (d_inner, d_state) and
    D (d_inner,) in float32, out_proj. Source: Mamba, section 3.4 and figure 3."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        self.use_fast_path, self.layer_idx = use_fast_path, layer_idx
        factory_kwargs: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory_kwargs)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=conv_bias, **factory_kwargs
        )
        self.activation = "silu"
        self.act = nn.SiLU()
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory_kwargs)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, bias=True, **factory_kwargs)
        spread = self.dt_rank**-0.5 * dt_scale
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, spread)
        elif dt_init == "random":
            nn.init.uniform_(self.dt_proj.weight, -spread, spread)
        else:
            raise NotImplementedError(f"dt_init must be 'random' or 'constant', not {dt_init!r}")
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_dt_bias(self.d_inner, dt_min, dt_max, dt_init_floor, **factory_kwargs))
        marked(self.dt_proj.bias, "_no_reinit")
        states = torch.arange(1, d_state + 1, dtype=torch.float32, device=device)
        self.A_log = marked(nn.Parameter(states.log().repeat(self.d_inner, 1)), "_no_weight_decay")
        self.D = marked(nn.Parameter(torch.ones(self.d_inner, device=device)), "_no_weight_decay")
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory_kwargs)

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """hidden_states: (batch, length, d_model). inference_params: with seqlen_offset > 0 one token, else a prompt whose states
        are kept in it."""
        batch, length, _ = hidden_states.shape
        if inference_params is None and self.use_fast_path:
            weights = fusible(self, "conv1d", "x_proj", "dt_proj", "out_proj")
            if weights is not None:
                conv1d, x_proj, dt_proj, out_proj = weights
                return mamba_inner_fn(
                    called(self.in_proj, hidden_states).mT,
                    conv1d.weight,
                    conv1d.bias,
                    x_proj.weight,
                    dt_proj.weight,
                    out_proj.weight,
                    out_proj.bias,
                    self._A(),
                    None,
                    None,
                    self.D.float(),
                    delta_bias=None if dt_proj.bias is None else dt_proj.bias.float(),
                    delta_softplus=True,
                )
        conv_state = ssm_state = None
        if inference_params is not None:
            conv_state, ssm_state = self._get_states_from_cache(inference_params, batch)
            if inference_params.seqlen_offset > 0:
                return self.step(hidden_states, conv_state, ssm_state)[0]
        x, z = called(self.in_proj, hidden_states).mT.chunk(2, dim=1)
        if conv_state is not None:
            conv_state.copy_(F.pad(x, (self.d_conv - length, 0)))
        u = convolved(self, x)
        dt, B, C = called(self.x_proj, u.mT).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta, delta_bias = self._delta(dt)
        y = selective_scan_fn(
            u,
            delta.mT,
            self._A(),
            B.mT,
            C.mT,
            self.D.float(),
            z=z,
            delta_bias=None if delta_bias is None else delta_bias.float(),
            delta_softplus=True,
            return_last_state=ssm_state is not None,
        )
        if ssm_state is not None:
            y, last_state = y
            ssm_state.copy_(last_state)
        return called(self.out_proj, y.mT)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """hidden_states: (batch, 1, d_model); both states are changed in place and returned."""
        assert hidden_states.shape[1] == 1, "step takes one token at a time"
        segments.said_no_gradient(self)
        x, z = called(self.in_proj, hidden_states[:, 0]).chunk(2, dim=-1)
        u = convolved_step(self, x, conv_state)
        dt, B, C = called(self.x_proj, u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta, delta_bias = self._delta(dt)
        y = selective_state_update(
            ssm_state, u, delta, self._A(), B, C, self.D, z=z, dt_bias=delta_bias, dt_softplus=True
        )  # fmt: skip
        return called(self.out_proj, y)[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Zero states: (batch, d_inner, d_conv) and (batch, d_inner, d_state)."""
        weight = self.out_proj.weight
        conv_state = torch.zeros(
            batch_size, self.d_inner, self.d_conv, device=weight.device, dtype=dtype or self.conv1d.weight.dtype
        )
        ssm_state = torch.zeros(batch_size, self.d_inner, self.d_state, device=weight.device, dtype=dtype or self.dt_proj.weight.dtype)
        return conv_state, ssm_state

    def _get_states_from_cache(
        self, inference_params: Any, batch_size: int, initialize_states: bool = False
    ) -> tuple[Tensor, Tensor]:
        return states_from_cache(self, inference_params, batch_size, initialize_states)

    def _delta(self, dt: Tensor) -> tuple[Tensor, Tensor | None]:
        """(..., dt_rank) to (..., d_inner), and the bias still to be added: the scan adds it in float32, unless dt_proj is more than its
        weights and adds it itself."""
        weights, _ = plain.weights(self.dt_proj)
        return (self.dt_proj(dt), None) if weights is None else (linear(dt, weights.weight), weights.bias)

    def _A(self) -> Tensor:
        return -torch.exp(self.A_log.float())


def states_from_cache(mixer: Any, inference_params: Any, batch_size: int, initialize_states: bool) -> tuple[Tensor, Tensor]:
    """The mixer's two states in inference_params, made where there are none, zeroed when asked to."""
    assert mixer.layer_idx is not None, "generation needs layer_idx"
    cache = inference_params.key_value_memory_dict
    if mixer.layer_idx in cache and inference_params.seqlen_offset == 0 and not initialize_states:
        segments.said_once(inference_params)
    if mixer.layer_idx not in cache:
        cache[mixer.layer_idx] = mixer.allocate_inference_cache(batch_size, inference_params.max_seqlen)
    elif initialize_states:
        for state in cache[mixer.layer_idx]:
            state.zero_()
    return cache[mixer.layer_idx]


def initial_dt_bias(
    size: int, dt_min: float, dt_max: float, dt_init_floor: float, device: Any = None, dtype: torch.dtype | None = None
) -> Tensor:
    """(size,): softplus of it is log-uniform between dt_min and dt_max, dt_init_floor at least."""
    low, high = math.log(dt_min), math.log(dt_max)
    dt = torch.exp(torch.rand(size, device=device, dtype=dtype) * (high - low) + low).clamp(min=dt_init_floor)
    return dt + torch.log(-torch.expm1(-dt))


def marked(parameter: Any, name: str) -> Any:
    """The parameter with that attribute true: optimizers and initialisers look for it."""
    setattr(parameter, name, True)
    return parameter


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; from .convolution import causal_conv1d_fn, causal_conv1d_update"
    "; from ..ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn",
)
