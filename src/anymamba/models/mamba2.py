"""Mamba-2 (Dao and Gu 2024, "Transformers are SSMs", section 7). Parameters are named like those of Mamba2ForCausalLM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba import ops
from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models import plain
from anymamba.models.config import Config
from anymamba.models.family import Family, LayerKind, LinearLayer, alike
from anymamba.models.hub.original import OriginalForm, padded, refuse, shared_fields, state_spaces
from anymamba.models.mamba import random_dt_bias
from anymamba.models.plain import Weights, plain_class
from anymamba.models.sizes import SIZES
from anymamba.models.trunk.convolution import convolve, convolve_step, readable
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.fused_step import ByHead
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.state import LayerState
from anymamba.models.trunk.submodule import call, needs_gradient


@dataclass
class Mamba2Config(Config):
    num_heads: int = 128
    head_dim: int = 64
    vocab_size: int = 32768
    hidden_size: int = 4096
    state_size: int = 128
    num_hidden_layers: int = 64
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    n_groups: int = 8
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    chunk_size: int = 256
    tie_word_embeddings: bool = False

    model_type: ClassVar[str] = "mamba2"
    architecture: ClassVar[str] = "Mamba2ForCausalLM"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.time_step_limit = (float(self.time_step_limit[0]), float(self.time_step_limit[1]))
        if self.d_inner != self.num_heads * self.head_dim:
            raise ArgumentError(
                "config",
                _(
                    "expand * hidden_size is {d_inner}, num_heads * head_dim {num_heads} * {head_dim}: they must be "
                    "equal"
                ).format(d_inner=self.d_inner, num_heads=self.num_heads, head_dim=self.head_dim),
            )
        if self.num_heads % self.n_groups:
            raise ArgumentError(
                "config",
                _("num_heads {num_heads} is not a multiple of n_groups {n_groups}").format(
                    num_heads=self.num_heads, n_groups=self.n_groups
                ),
            )

    @property
    def conv_dim(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_inner + 2 * self.n_groups * self.state_size

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if self.time_step_limit == (0.0, math.inf):  # the default, and JSON has no infinity
            del values["time_step_limit"]
        return values


@plain_class
class GatedRMSNorm(nn.Module):
    """RMS norm, in groups, of x * silu(z); the parameters of ``ops.rmsnorm_fn``."""

    def __init__(self, size: int, groups: int, eps: float, norm_before_gate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.group_size, self.eps, self.norm_before_gate = size // groups, eps, norm_before_gate

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return ops.rmsnorm_fn(
            x, self.weight, None, z=z, eps=self.eps, group_size=self.group_size, norm_before_gate=self.norm_before_gate
        )


@plain_class
class Mamba2Mixer(Mixer[LayerState]):

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        self.in_proj = Linear(
            config.hidden_size, config.d_inner + config.conv_dim + config.num_heads, bias=config.use_bias
        )
        self.conv1d = nn.Conv1d(
            config.conv_dim, config.conv_dim, config.conv_kernel, groups=config.conv_dim, bias=config.use_conv_bias
        )
        self.dt_bias = nn.Parameter(torch.empty(config.num_heads))
        self.A_log = nn.Parameter(torch.empty(config.num_heads))
        self.D = nn.Parameter(torch.empty(config.num_heads))
        self.norm: nn.Module = self.make_norm(config)
        self.out_proj = Linear(config.d_inner, config.hidden_size, bias=config.use_bias)
        # upstream's marks: decay of these would move the time scales of the state, not regularise
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    def make_norm(self, config: Mamba2Config) -> nn.Module:
        """(y, z) -> what goes into out_proj."""
        return GatedRMSNorm(config.d_inner, config.n_groups, config.layer_norm_epsilon)

    def project(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> z, x, B, C and dt beside one another."""
        config = self.config
        return call(self, "in_proj", hidden, config.d_inner + config.conv_dim + config.num_heads)

    @torch.no_grad()
    def init_parameters(self) -> None:
        """A uniform in [1, 16], dt log-uniform (mamba_ssm ``Mamba2.__init__``)."""
        self.A_log.copy_(torch.empty_like(self.A_log, dtype=torch.float32).uniform_(1, 16).log())
        self.D.fill_(1.0)
        self.dt_bias.copy_(random_dt_bias(self.config, self.dt_bias))

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        documents: Documents | None = None,
        state: LayerState | None = None,
    ) -> Tensor:
        """mask: (batch, length, 1), 0 at padding. state: continued from and updated in place."""
        if state is not None and mask is None and hidden.shape[1] == 1 and not needs_gradient(self, hidden):
            return self._step(hidden, state)
        config = self.config
        zxBCdt = self.project(hidden)
        if mask is None and state is None:
            conv = readable(self.conv1d, config.conv_dim, config.conv_kernel)
            norm = self.norm_in_scan()
            if conv is not None and norm is not None:
                return self._fused(zxBCdt, conv, norm, documents)
        z, xBC, dt = zxBCdt.split([config.d_inner, config.conv_dim, config.num_heads], dim=-1)
        if mask is not None:  # after the projection: its bias, or whatever a hook adds, would fill the padding again
            xBC = xBC * mask
        xBC = convolve(xBC.transpose(1, 2), self.conv1d, config.conv_kernel, documents, state).transpose(1, 2)
        if mask is not None:
            xBC = xBC * mask
        x, B, C = self._split(xBC)
        result: Any = ops.mamba_chunk_scan_combined(
            x,
            dt,
            -torch.exp(self.A_log.float()),
            B,
            C,
            chunk_size=config.chunk_size,
            D=self.D.float(),
            dt_bias=self.dt_bias.float(),
            # a copy: the backward pass needs what stood there before the update
            initial_states=state.ssm.clone() if state is not None and state.used else None,
            seq_idx=None if documents is None else documents.seq_idx,
            dt_softplus=True,
            dt_limit=config.time_step_limit,
            return_final_states=state is not None,
        )
        if state is None:
            y = result
        else:
            y, last = result
            state.ssm.copy_(last.detach())
        return call(self, "out_proj", self.norm(y.flatten(-2), z), config.hidden_size)

    @classmethod
    def make_state(cls, config: Mamba2Config, batch: int, device: torch.device | str, dtype: torch.dtype) -> LayerState:
        """See Mixer.make_state."""
        conv = batch, config.conv_dim, config.conv_kernel - 1
        return LayerState.empty(conv, (batch, config.num_heads, config.head_dim, config.state_size), device, dtype)

    def norm_in_scan(self) -> dict[str, Any] | None:
        """The norm as arguments of the fused op, where it is nothing else."""
        norm = self.norm
        norm_weights, _ = plain.weights(norm) if type(norm) is GatedRMSNorm else (None, "")
        if norm_weights is None or type(norm) is not GatedRMSNorm:
            return None
        return {"rmsnorm_weight": norm_weights.weight, "rmsnorm_eps": norm.eps, "norm_before_gate": norm.norm_before_gate}

    def _fused(self, zxBCdt: Tensor, conv: Weights, norm: dict[str, Any], documents: Documents | None) -> Tensor:
        config = self.config
        y: Any = ops.mamba_split_conv1d_scan_combined(
            zxBCdt,
            conv.weight.squeeze(1),
            conv.bias,
            self.dt_bias.float(),
            -torch.exp(self.A_log.float()),
            D=self.D.float(),
            chunk_size=config.chunk_size,
            seq_idx=None if documents is None else documents.seq_idx,
            dt_limit=config.time_step_limit,
            activation="silu",
            headdim=config.head_dim,
            ngroups=config.n_groups,
            **norm,
        )
        return call(self, "out_proj", y, config.hidden_size)

    def _split(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., conv_dim) -> x (..., nheads, headdim), B and C (..., ngroups, d_state), all views."""
        config = self.config
        grouped = config.n_groups * config.state_size
        x, B, C = xBC.split([config.d_inner, grouped, grouped], dim=-1)
        groups = config.n_groups, config.state_size
        return x.unflatten(-1, (config.num_heads, config.head_dim)), B.unflatten(-1, groups), C.unflatten(-1, groups)

    @torch.no_grad()
    def _step(self, hidden: Tensor, state: LayerState) -> Tensor:
        config = self.config
        parts = config.d_inner, config.conv_dim, config.num_heads
        z, xBC, dt = self.project(hidden[:, 0]).split(parts, dim=-1)
        x, B, C = self._split(convolve_step(xBC, self.conv1d, config.conv_kernel, state))
        heads = config.num_heads, config.head_dim
        A, D, bias = state.constants_of((self.A_log, self.D, self.dt_bias), self._by_channel)
        limited = config.time_step_limit != (0.0, math.inf)
        if limited:  # the update has no dt_limit; without this, steps would differ from the scan
            dt = F.softplus(dt.float() + bias[:, 0]).clamp(*config.time_step_limit)
        y = ops.selective_state_update(
            state.ssm,
            x,
            dt.unsqueeze(-1).expand(-1, *heads),
            A,
            B,
            C,
            D,
            dt_bias=None if limited else bias,
            dt_softplus=not limited,
        )
        return call(self, "out_proj", self.norm(y.flatten(-2), z), config.hidden_size).unsqueeze(1)

    def _by_channel(self, A_log: Tensor, D: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A (nheads, headdim, d_state), D and dt_bias (nheads, headdim), all expanded."""
        heads = self.config.num_heads, self.config.head_dim
        A = -torch.exp(A_log.float())[:, None, None].expand(*heads, self.config.state_size)
        return A, D.float()[:, None].expand(heads), dt_bias.float()[:, None].expand(heads)


def _original(values: dict[str, Any], ssm: dict[str, Any]) -> Mamba2Config:
    shared = shared_fields(values, ssm)
    inner = shared["expand"] * shared["hidden_size"]
    refuse("ssm_cfg.D_has_hdim", ssm.get("D_has_hdim", False), [False])
    refuse("ssm_cfg.norm_before_gate", ssm.get("norm_before_gate", False), [False])
    refuse("ssm_cfg.rmsnorm", ssm.get("rmsnorm", True), [True])
    refuse("ssm_cfg.d_ssm", ssm.get("d_ssm"), [None, inner])
    headdim = ssm.get("headdim", 64)
    return Mamba2Config(
        **shared,
        state_size=ssm.get("d_state", 128),
        head_dim=headdim,
        num_heads=inner // headdim,
        n_groups=ssm.get("ngroups", 1),
        chunk_size=ssm.get("chunk_size", 256),
        time_step_limit=tuple(ssm.get("dt_limit", Mamba2Config.time_step_limit)),
    )


def _codestral(params: dict[str, Any]) -> Mamba2Config:
    """The content of params.json: a Mamba-2 with mamba_ssm's defaults where it says nothing."""
    refuse("params.json: rms_norm", params.get("rms_norm", True), [True])
    size = int(params["dim"])
    return Mamba2Config(
        hidden_size=size,
        num_hidden_layers=int(params["n_layers"]),
        vocab_size=padded(int(params["vocab_size"]), int(params.get("pad_vocab_size_multiple", 1))),
        num_heads=2 * size // 64,
        head_dim=64,
        n_groups=int(params.get("n_groups", 1)),
        residual_in_fp32=params.get("residual_in_fp32", True),
        tie_word_embeddings=params.get("tie_embeddings", False),
    )


def _fused_step(config: Mamba2Config) -> ByHead:
    return ByHead(
        config.num_heads, config.head_dim, config.n_groups, config.state_size, config.conv_kernel, config.time_step_limit,
        config.layer_norm_epsilon,
    )  # fmt: skip


def _size(width: int, layers: int) -> dict[str, Any]:
    """As the published models: heads of 64 channels, one group, a tied head."""
    heads: dict[str, Any] = {"head_dim": 64, "num_heads": 2 * width // 64, "n_groups": 1}
    return {"hidden_size": width, "num_hidden_layers": layers, **heads, "tie_word_embeddings": True}


# elsewhere PEFT refuses adapters on an out_proj of these families
LINEAR_LAYERS = LinearLayer("mixer.in_proj"), LinearLayer("mixer.out_proj", lora=False, residual=True)

FAMILY = Family(
    Mamba2Config,
    alike(LayerKind(Mamba2Mixer, LINEAR_LAYERS, fused_step=_fused_step)),
    {size: _size(*dial) for size, dial in SIZES.items()},
    originals=(
        state_spaces("Mamba2", _original),
        OriginalForm("Codestral", "params.json", lambda params: "dim" in params, _codestral),
    ),
)
