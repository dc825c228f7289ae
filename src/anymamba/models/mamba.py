"""Mamba-1 (Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces").

Parameters are named like those of transformers' MambaForCausalLM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anymamba import ops
from anymamba.models.config import Config
from anymamba.models.family import Family, LayerKind, LinearLayer, alike
from anymamba.models.hub.original import shared_fields, state_spaces
from anymamba.models.plain import Weights, plain_class
from anymamba.models.sizes import SIZES
from anymamba.models.trunk import adapters
from anymamba.models.trunk.adapters import LowRank
from anymamba.models.trunk.convolution import convolve, convolve_step, readable
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.fused_step import ByChannel
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.state import LayerState
from anymamba.models.trunk.submodule import call, needs_gradient
from anymamba.ops.low_rank import linear
from anymamba.ops.mamba_inner import mamba_inner
from anymamba.ops.selective_scan import selective_scan


@dataclass
class MambaConfig(Config):
    time_step_scale: float = 1.0
    time_step_init_scheme: str = "random"

    model_type: ClassVar[str] = "mamba"
    architecture: ClassVar[str] = "MambaForCausalLM"


_OP_NAMES = {"x_proj": "x_proj", "dt_proj": "delta_proj", "out_proj": "out_proj"}
"""Of the linear layers, in the fused op."""


@plain_class
class MambaMixer(Mixer[LayerState]):

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
        width = self.config.conv_kernel
        if state is not None and mask is None and hidden.shape[1] == 1 and not needs_gradient(self, hidden):
            return self._step(hidden, state)
        # (batch, length, d_inner) in memory; the ops see it as (batch, d_inner, length) without a copy
        xz = call(self, "in_proj", hidden, 2 * self.config.d_inner).transpose(1, 2)
        if mask is None and documents is None and state is None:
            taken = self._fusible()
            if taken is not None:
                return self._fused(xz, *taken)
        x, z = xz.chunk(2, dim=1)
        if mask is not None:  # after the projection: its bias, or whatever a hook adds, would fill the padding again
            x = x * mask.transpose(1, 2)
        x = convolve(x, self.conv1d, width, documents, state)
        if mask is not None:
            x = x * mask.transpose(1, 2)
        dt, B, C, bias = self.project(x)
        A, D = -torch.exp(self.A_log.float()), self.D.float()
        result: Any = selective_scan(
            x,
            dt,
            A,
            B,
            C,
            D,
            z=z,
            delta_bias=bias,
            delta_softplus=True,
            return_last_state=state is not None,
            # a copy: the backward pass needs what stood there before the update
            initial_states=state.ssm.clone() if state is not None and state.used else None,
            seq_idx=None if documents is None else documents.seq_idx,
        )
        if state is None:
            y = result
        else:
            y, last = result
            state.ssm.copy_(last.detach())
        return call(self, "out_proj", y.transpose(1, 2), self.config.hidden_size)

    @classmethod
    def make_state(cls, config: MambaConfig, batch: int, device: torch.device | str, dtype: torch.dtype) -> LayerState:
        """See Mixer.make_state."""
        conv = batch, config.d_inner, config.conv_kernel - 1
        return LayerState.empty(conv, (batch, config.d_inner, config.state_size), device, dtype)

    fused = True
    """Whether ``mamba_inner_fn`` computes this mixer."""

    def _fusible(self) -> tuple[Weights, dict[str, LowRank]] | None:
        """What ``mamba_inner`` reads of the convolution, and of x_proj, dt_proj and out_proj by name, where they are nothing else than
        weights and what adapters have beside them."""
        taken: dict[str, LowRank] = {}
        for name in ("x_proj", "dt_proj", "out_proj") if self.fused else ():
            layer, _ = adapters.low_rank(getattr(self, name), computed=False)
            if layer is None or layer.changes is None:
                return None
            taken[name] = layer
        conv = readable(self.conv1d, self.config.d_inner, self.config.conv_kernel) if taken else None
        # the op has no bias of x_proj, and rounds its weights to the dtype of the activations
        if conv is None or taken["x_proj"].base.bias is not None or len({layer.base.weight.dtype for layer in taken.values()}) > 1:
            return None
        return conv, taken

    def _fused(self, xz: Tensor, conv: Weights, layers: dict[str, LowRank]) -> Tensor:
        x_proj, dt_proj, out_proj = (layers[name].base for name in ("x_proj", "dt_proj", "out_proj"))
        return mamba_inner(
            xz,
            conv.weight,
            conv.bias,
            x_proj.weight,
            dt_proj.weight,
            out_proj.weight,
            out_proj.bias,
            -torch.exp(self.A_log.float()),
            D=self.D.float(),
            delta_bias=None if dt_proj.bias is None else dt_proj.bias.float(),
            delta_softplus=True,
            checkpoint_lvl=0,  # whole blocks are recomputed where memory is short, see Backbone.gradient_checkpointing
            changes={_OP_NAMES[name]: layer.changes for name, layer in layers.items() if layer.changes},
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x: (batch, d_inner, length) -> dt before softplus (batch, d_inner, length), B, C (batch, d_state, length), and the bias
        (d_inner,) that dt still lacks."""
        rank, n = int(self.config.time_step_rank), self.config.state_size
        low_rank, B, C = call(self, "x_proj", x.transpose(1, 2), rank + 2 * n).split([rank, n, n], dim=-1)
        dt, bias = self.delta(low_rank)
        return dt, B.transpose(1, 2), C.transpose(1, 2), bias

    def delta(self, low_rank: Tensor) -> tuple[Tensor, Tensor | None]:
        """(batch, length, rank) -> (batch, d_inner, length) and the bias to be added. dt_proj's own sum would round in 16 bits; the scan
        adds the bias in float32, unless dt_proj is more than its weights."""
        taken, _ = adapters.low_rank(self.dt_proj, computed=False)
        if taken is None or taken.changes is None:
            return call(self, "dt_proj", low_rank, self.config.d_inner).transpose(1, 2), None
        weight, bias = taken.base
        return linear(low_rank, weight, None, taken.changes).transpose(1, 2), None if bias is None else bias.float()

    @torch.no_grad()
    def _step(self, hidden: Tensor, state: LayerState) -> Tensor:
        x, z = call(self, "in_proj", hidden[:, 0], 2 * self.config.d_inner).chunk(2, dim=-1)
        x = convolve_step(x, self.conv1d, self.config.conv_kernel, state)
        dt, B, C, bias = self.project(x.unsqueeze(-1))
        A, D = state.constants_of((self.A_log, self.D), lambda A_log, D: (-torch.exp(A_log.float()), D.float()))
        y = ops.selective_state_update(
            state.ssm, x, dt[..., 0], A, B[..., 0], C[..., 0], D, z=z, dt_bias=bias, dt_softplus=True
        )
        return call(self, "out_proj", y, self.config.hidden_size).unsqueeze(1)


def random_dt_bias(config: Config, like: Tensor) -> Tensor:
    """Values whose softplus is log-uniform in [time_step_min, time_step_max], at least time_step_floor."""
    low, high = math.log(config.time_step_min), math.log(config.time_step_max)
    dt = torch.exp(torch.rand(like.shape, device=like.device) * (high - low) + low).clamp(min=config.time_step_floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def _original(values: dict[str, Any], ssm: dict[str, Any]) -> MambaConfig:
    return MambaConfig(
        **shared_fields(values, ssm),
        state_size=ssm.get("d_state", 16),
        time_step_rank=ssm.get("dt_rank", "auto"),
        time_step_scale=ssm.get("dt_scale", 1.0),
        time_step_init_scheme=ssm.get("dt_init", "random"),
    )


def fused_step(config: MambaConfig) -> ByChannel:
    """What a fused step reads of the configuration."""
    return ByChannel(config.d_inner, config.state_size, config.conv_kernel, int(config.time_step_rank))


# elsewhere PEFT refuses adapters on an out_proj of these families, and transformers passes over those on dt_proj, whose weight it reads
LINEAR_LAYERS = (
    LinearLayer("mixer.in_proj"),
    LinearLayer("mixer.x_proj"),
    # small, and its weight times rank numbers is the time scale of a channel
    LinearLayer("mixer.dt_proj", quantize=False, lora=False),
    LinearLayer("mixer.out_proj", lora=False, residual=True),
)

FAMILY = Family(
    MambaConfig,
    alike(LayerKind(MambaMixer, LINEAR_LAYERS, fused_step=fused_step)),
    {size: {"hidden_size": width, "num_hidden_layers": layers} for size, (width, layers) in SIZES.items()},
    vocabulary_multiple=8,
    originals=(state_spaces("Mamba1", _original),),
)
