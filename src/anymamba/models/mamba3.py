"""Mamba-3 (section 3 of its paper), SISO and MIMO. Parameters are named like those of mamba_ssm's ``Mamba3``; transformers has no such
model. The decay rate has one of two activations (``reference/mamba3_decay.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba import ops
from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models.config import Config
from anymamba.models.family import Family, LayerKind, LinearLayer
from anymamba.models.hub.original import shared_fields, state_spaces
from anymamba.models.mamba import random_dt_bias
from anymamba.models.mamba3_recurrence import recurrence
from anymamba.models.plain import plain_class
from anymamba.models.sizes import SIZES
from anymamba.models.trunk.documents import Documents
from anymamba.models.trunk.fused_step import ByRank
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.mixer import Mixer
from anymamba.models.trunk.mlp import GatedMLP
from anymamba.models.trunk.state import LayerState
from anymamba.models.trunk.submodule import call, needs_gradient
from anymamba.reference.mamba3_decay import ACTIVATIONS, decay_rate


@dataclass
class Mamba3Config(Config):
    """intermediate_size: width of the gated MLP after each mixer, 0 for none. rank counts only with is_mimo. rope_fraction: of the
    state's pairs, 0.5 or 1, those that turn. a_floor: the slowest decay. a_activation: of the decay, "softplus" or "heavy_tail"; None: a
    checkpoint does not say, and ``settle`` finds out. conv_kernel and use_bias mean nothing here."""

    state_size: int = 128
    head_dim: int = 64
    n_groups: int = 1
    intermediate_size: int = 0
    rope_fraction: float = 0.5
    a_floor: float = 1e-4
    a_activation: str | None = "heavy_tail"
    is_mimo: bool = False
    mimo_rank: int = 4
    is_outproj_norm: bool = False
    chunk_size: int = 64

    model_type: ClassVar[str] = "mamba3"
    architecture: ClassVar[str] = "Mamba3ForCausalLM"
    presumed_activation: ClassVar[str] = "heavy_tail"
    """Where a checkpoint neither says nor can be tried: that of mamba_ssm's main branch, to which the published models' card points."""

    def __post_init__(self) -> None:
        super().__post_init__()
        inner, heads = self.d_inner, self.d_inner // self.head_dim
        if inner % self.head_dim or heads % self.n_groups:
            raise ArgumentError(
                "config",
                _(
                    "head_dim {head_dim} must divide expand * hidden_size {inner}, and n_groups {n_groups} the "
                    "{heads} heads"
                ).format(head_dim=self.head_dim, inner=inner, n_groups=self.n_groups, heads=heads),
            )
        if self.rope_fraction not in (0.5, 1.0) or self.num_angles < 1:
            raise ArgumentError(
                "config",
                _(
                    "rope_fraction must be 0.5 or 1, with at least one pair, not {rope_fraction} of state_size "
                    "{state_size}"
                ).format(rope_fraction=self.rope_fraction, state_size=self.state_size),
            )
        if self.state_size % 2:
            raise ArgumentError(
                "config",
                _("state_size must be even, since its pairs turn, not {state_size}").format(state_size=self.state_size),
            )
        if not isinstance(self.mimo_rank, int) or self.mimo_rank < 1:
            raise ArgumentError(
                "config",
                _("mimo_rank must be at least 1, not {mimo_rank!r}").format(mimo_rank=self.mimo_rank),
            )
        if self.a_activation is not None:
            check_activation("a_activation", self.a_activation)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Mamba3Config:
        """As Config.from_dict; a file that does not name a_activation leaves it open."""
        config = super().from_dict({"a_activation": None, **values})
        if config.a_activation is None:
            # what anymamba trained before the field was there
            config.presumed_activation = "softplus"  # type: ignore[misc]
        return config

    def choose_activation(self, name: str) -> None:
        check_activation("a_activation", name)
        self.a_activation = name

    def settle(self, model: nn.Module, tokenizer: Callable[[], Any]) -> None:
        if self.a_activation is not None:
            return

        from anymamba.models.mamba3_activation import decide  # it needs the tokenizers, which nothing else here does

        def logits(ids: Tensor, activation: str) -> Tensor:
            self.a_activation = activation  # every layer's mixer holds this same configuration
            return model(ids).logits

        device = next(model.parameters()).device
        self.a_activation = decide(logits, self.vocab_size, device, tokenizer(), self.presumed_activation)

    @property
    def num_heads(self) -> int:
        return self.d_inner // self.head_dim

    @property
    def rank(self) -> int:
        return self.mimo_rank if self.is_mimo else 1

    @property
    def num_angles(self) -> int:
        return int(self.state_size * self.rope_fraction) // 2

    @property
    def mlp_width(self) -> int:
        """Of the gated MLP after each mixer; 0: there is none."""
        return -(-self.intermediate_size // 128) * 128  # as mamba_ssm's GatedMLP rounds it


def check_activation(name: str, value: str) -> None:
    """Raises ArgumentError that lists the activations there are."""
    if value not in ACTIVATIONS:
        raise ArgumentError(
            "usage",
            _("{name} {value!r} is not known").format(name=name, value=value),
            fix=_("known: ") + ", ".join(ACTIVATIONS),
        )


@plain_class
class _Norm(nn.Module):
    def __init__(self, size: int, group_size: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.group_size = group_size

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return ops.rmsnorm_fn(x, self.weight, None, z=z, eps=1e-5, group_size=self.group_size, norm_before_gate=True)


@plain_class
class Mamba3Mixer(Mixer[LayerState]):

    def __init__(self, config: Mamba3Config) -> None:
        super().__init__()
        self.config = config
        heads, rank = config.num_heads, config.rank
        keys = config.state_size * config.n_groups * rank
        self.widths = [config.d_inner, config.d_inner, keys, keys, heads, heads, heads, config.num_angles]
        self.in_proj = Linear(config.hidden_size, sum(self.widths), bias=False)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.B_bias, self.C_bias = (nn.Parameter(torch.empty(heads, rank, config.state_size)) for _ in "BC")
        self.B_norm, self.C_norm = (_Norm(config.state_size) for _ in "BC")
        if config.is_mimo:
            self.mimo_x, self.mimo_z, self.mimo_o = (nn.Parameter(torch.empty(heads, rank, config.head_dim)) for _ in "xzo")
        self.D = nn.Parameter(torch.empty(heads))
        if config.is_outproj_norm:
            self.norm = _Norm(config.d_inner, config.head_dim)
        self.out_proj = Linear(config.d_inner, config.hidden_size, bias=False)
        # upstream's marks
        for parameter in (self.dt_bias, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def init_parameters(self) -> None:
        """dt log-uniform, biases one, projections of the ranks even (mamba_ssm ``Mamba3.__init__``)."""
        self.dt_bias.copy_(random_dt_bias(self.config, self.dt_bias))
        for parameter in (self.D, self.B_bias, self.C_bias):
            parameter.fill_(1.0)
        if self.config.is_mimo:
            self.mimo_z.fill_(1.0)
            for parameter in (self.mimo_x, self.mimo_o):
                parameter.fill_(1.0 / self.config.rank)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        documents: Documents | None = None,
        state: LayerState | None = None,
    ) -> Tensor:
        """mask: (batch, length, 1), 0 at padding: a token of zeros adds nothing to the state. state: continued from and updated."""
        projected = call(self, "in_proj", hidden, sum(self.widths))
        if mask is not None:  # after the projection: whatever a hook adds would fill the padding again
            projected = projected * mask
        if state is not None:
            by_token = state.used and self.config.is_mimo  # the scan of MIMO has no states to start from
            if needs_gradient(self, hidden):
                if by_token:
                    return self._recurrence(projected, state)
            elif by_token or hidden.shape[1] == 1:
                return torch.stack([self._step(token, state) for token in projected.unbind(1)], dim=1)
        if documents is not None:
            y = self._scan(projected.reshape(1, -1, projected.shape[2]), _borders(documents), None)
            return y.view(*hidden.shape[:2], -1)
        return self._scan(projected, None, state)

    @classmethod
    def make_state(cls, config: Mamba3Config, batch: int, device: torch.device | str, dtype: torch.dtype) -> LayerState:
        """The last key and value of each head, and its state and angles, each one behind the other."""
        last = config.rank * config.state_size + config.head_dim
        memory = config.head_dim * config.state_size + config.num_angles
        return LayerState.empty((batch, config.num_heads, last), (batch, config.num_heads, memory), device, dtype)

    def _scan(self, projected: Tensor, cu_seqlens: Tensor | None, state: LayerState | None) -> Tensor:
        config = self.config
        z, x, B, C, dt, A, trap, angles = self._split(projected)
        gate = None if config.is_outproj_norm else z
        scalars = ((A * dt).mT, dt.mT, trap.mT)
        y: Any
        if config.is_mimo:
            y = ops.mamba3_mimo(
                C, B, x, *scalars, self.C_bias, self.B_bias, self.mimo_x, self.mimo_z, None if config.is_outproj_norm else self.mimo_o,
                angles, self.D, gate, config.chunk_size, int(2 / config.rope_fraction), x.dtype, state is not None, cu_seqlens,
            )  # fmt: skip
        else:
            before = None
            if state is not None and state.used:
                # copies: the backward pass needs what stood there before the update
                angle, ssm, k, v = (part.clone() for part in self._views(state))
                before = angle, ssm, k[:, 0], v
            y = ops.mamba3_siso_combined(
                C.squeeze(2), B.squeeze(2), x, *scalars, self.C_bias.squeeze(1), self.B_bias.squeeze(1), angles, self.D, gate, before,
                config.chunk_size, state is not None, cu_seqlens,
            )  # fmt: skip
        if state is not None:
            y, *last = y
            self._update(state, last)
        return self._project(y if config.is_mimo else y.unsqueeze(-3), z, x.dtype)

    @torch.no_grad()
    def _step(self, projected: Tensor, state: LayerState) -> Tensor:
        config = self.config
        z, x, B, C, dt, A, trap, angles = self._split(projected)
        angle, ssm, k_last, v_last = self._views(state)
        repeats = config.num_heads // config.n_groups
        q, k, turned = ops.apply_rotary_qk_inference_fwd(
            C.repeat_interleave(repeats, dim=2), B.repeat_interleave(repeats, dim=2), angle, angles, dt, self.C_bias.transpose(0, 1),
            self.B_bias.transpose(0, 1), rotate_pairwise=not config.is_mimo,
        )  # fmt: skip
        ones = x.new_ones(1).expand(1, config.num_heads, config.head_dim)
        up, gate, down = (p.transpose(0, 1) for p in (self.mimo_x, self.mimo_z, self.mimo_o)) if config.is_mimo else (ones,) * 3
        if config.is_outproj_norm:
            y = ops.mamba3_state_update(ssm, k_last, v_last, A, k, q, self.D, x, dt, torch.sigmoid(trap), up)
        else:
            y = ops.mamba3_state_update(ssm, k_last, v_last, A, k, q, self.D, x, dt, torch.sigmoid(trap), up, down, z, gate)
        angle.copy_(torch.remainder(turned, 2 * math.pi))
        k_last.copy_(k)
        v_last.copy_(x)
        return self._project(y if config.is_outproj_norm or config.is_mimo else y.unsqueeze(-3), z, x.dtype)

    def _split(self, projected: Tensor) -> tuple[Tensor, ...]:
        """z, x (.., nheads, headdim); B, C (.., rank, ngroups, d_state), normed; dt, A, trap (.., nheads), the first two in float32; angles
        (.., nheads, num_angles)."""
        config = self.config
        z, x, B, C, dt, A, trap, angles = projected.split(self.widths, dim=-1)
        z, x = (t.unflatten(-1, (config.num_heads, config.head_dim)) for t in (z, x))
        B, C = (t.unflatten(-1, (config.rank, config.n_groups, config.state_size)) for t in (B, C))
        wide = torch.promote_types(projected.dtype, torch.float32)
        decay = decay_rate(A.to(wide), config.a_activation or config.presumed_activation, config.a_floor)
        turns = angles.to(wide).unsqueeze(-2).expand(*angles.shape[:-1], config.num_heads, -1)
        return z, x, self.B_norm(B), self.C_norm(C), F.softplus(dt.to(wide) + self.dt_bias.to(wide)), decay, trap, turns

    def _project(self, y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
        """y: (.., nheads, headdim), gated and summed over ranks, or before both (.., rank, nheads, headdim) with is_outproj_norm."""
        config = self.config
        if config.is_outproj_norm:
            gate = z.unsqueeze(-3) * self.mimo_z.transpose(0, 1) if config.is_mimo else z.unsqueeze(-3)
            y = self.norm(y.flatten(-2).to(gate.dtype), gate.flatten(-2)).unflatten(-1, (config.num_heads, config.head_dim))
            y = (y * self.mimo_o.transpose(0, 1)).sum(-3) if config.is_mimo else y.squeeze(-3)
        elif not config.is_mimo:
            y = y.squeeze(-3)
        return call(self, "out_proj", y.flatten(-2).to(dtype), config.hidden_size)

    def _recurrence(self, projected: Tensor, state: LayerState) -> Tensor:
        """Several tokens from a state, one after the other and differentiable."""
        config = self.config
        z, x, B, C, dt, A, trap, angles = self._split(projected)
        up, down, gate = (factor.transpose(0, 1) for factor in (self.mimo_x, self.mimo_o, self.mimo_z))
        y, last = recurrence(
            [part.clone() for part in self._views(state)], C, B, x, z, A, dt, torch.sigmoid(trap), angles, self.C_bias, self.B_bias, self.D,
            up, None if config.is_outproj_norm else down, None if config.is_outproj_norm else gate,
        )  # fmt: skip
        self._update(state, last)
        return self._project(y, z, x.dtype)

    @torch.no_grad()
    def _update(self, state: LayerState, last: Sequence[Tensor]) -> None:
        for before, new in zip(self._views(state), last):
            before.copy_(new.view(before.shape))

    def _views(self, state: LayerState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """angle (batch, nheads, num_angles), ssm (.., headdim, d_state), k (batch, rank, nheads, d_state), v (batch, nheads, headdim)."""
        config = self.config
        ssm, angle = state.ssm.split([config.head_dim * config.state_size, config.num_angles], dim=-1)
        k, v = state.conv.split([config.rank * config.state_size, config.head_dim], dim=-1)
        by_rank = k.unflatten(-1, (config.rank, config.state_size)).transpose(1, 2)
        return angle, ssm.unflatten(-1, (config.head_dim, config.state_size)), by_rank, v


def _borders(documents: Documents) -> Tensor:
    """cu_seqlens of the rows one after another: a sequence begins with each row and where a document starts inside one."""
    batch, length = documents.seq_idx.shape
    begins = documents.starts.clone()
    begins[:, 0] = True
    return F.pad(begins.flatten().nonzero()[:, 0], (0, 1), value=batch * length)


def _original(values: dict[str, Any], ssm: dict[str, Any]) -> Mamba3Config:
    shared = shared_fields(values, ssm, mlp=True)
    shared.update(bos_token_id=None, eos_token_id=None, pad_token_id=None)  # its tokenizer is another
    names = {"d_state": "state_size", "headdim": "head_dim", "ngroups": "n_groups", "A_floor": "a_floor"}
    same = ("rope_fraction", "is_mimo", "mimo_rank", "is_outproj_norm", "chunk_size", "a_activation")
    own: dict[str, Any] = {str(names.get(name, name)): value for name, value in ssm.items() if name in names or name in same}
    own = {"a_activation": None, **own}  # mamba_ssm's own does not say
    return Mamba3Config(**shared, **own, intermediate_size=int(values.get("d_intermediate") or 0))


def _fused_step(config: Mamba3Config) -> ByRank:
    return ByRank(
        config.num_heads, config.head_dim, config.n_groups, config.state_size, config.rank, config.num_angles, config.is_mimo,
        config.a_activation or config.presumed_activation, config.a_floor, 1e-5, config.is_outproj_norm,
    )  # fmt: skip


LINEAR_LAYERS = LinearLayer("mixer.in_proj"), LinearLayer("mixer.out_proj", residual=True)
MIXER: LayerKind[Mamba3Config] = LayerKind(Mamba3Mixer, LINEAR_LAYERS, fused_step=_fused_step)
MIXER_AND_MLP: LayerKind[Mamba3Config] = LayerKind(
    Mamba3Mixer,
    (*LINEAR_LAYERS, LinearLayer("mlp.fc1"), LinearLayer("mlp.fc2", residual=True)),
    mlp=lambda config: GatedMLP(config.hidden_size, config.mlp_width),
    fused_step=_fused_step,
)


def _layers(config: Mamba3Config) -> list[LayerKind[Mamba3Config]]:
    return [MIXER_AND_MLP if config.mlp_width else MIXER] * config.num_hidden_layers


def _size(width: int, layers: int) -> dict[str, Any]:
    """Half the layers, each with an MLP: mixers and gated MLPs alternate (Mamba-3, section 3)."""
    return {"hidden_size": width, "num_hidden_layers": layers // 2, "head_dim": 64, "intermediate_size": 2 * width}


FAMILY = Family(
    Mamba3Config, _layers, {size: _size(*dial) for size, dial in SIZES.items()}, originals=(state_spaces("Mamba3", _original),)
)
