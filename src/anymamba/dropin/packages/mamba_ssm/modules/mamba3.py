"""The Mamba-3 mixer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymamba.errors import ArgumentError, warn_once
from anymamba.language import _
from anymamba.reference.mamba3_decay import ACTIVATIONS, decay_rate, heavy_tail

from ..ops.cute.mamba3.mamba3_step_fn import mamba3_step_fn
from ..ops.tilelang.mamba3.mamba3_mimo import mamba3_mimo as mamba3_mimo_combined
from ..ops.triton.layernorm_gated import RMSNorm as RMSNormGated
from ..ops.triton.mamba3.mamba3_mimo_rotary_step import apply_rotary_qk_inference_fwd
from ..ops.triton.mamba3.mamba3_siso_combined import mamba3_siso_combined
from .mamba_simple import initial_dt_bias, marked, states_from_cache
from .modules_as_weights import called

heavy_tail_activation = heavy_tail
States = tuple[Tensor, Tensor, Tensor, Tensor]
BEFORE_THE_FUSED_NORM = 13
"""Arguments of Mamba3.__init__, self not counted, in front of fuse_pregate_headwise_norm."""


def _either_order(init: Callable[..., None]) -> Callable[..., None]:
    """Main has fuse_pregate_headwise_norm in front of chunk_size; 2.3.2.post1 has not, and calls written for it by position still mean what
    they meant: a number there is the chunk_size."""

    @functools.wraps(init)
    def both(self: Any, *arguments: Any, **keywords: Any) -> None:
        at = BEFORE_THE_FUSED_NORM
        if len(arguments) > at and isinstance(arguments[at], int) and not isinstance(arguments[at], bool):
            arguments = (*arguments[:at], True, *arguments[at:])
        init(self, *arguments, **keywords)

    return both


class Mamba3(nn.Module):
    """(batch, length, d_model) to the same shape. Parameters: in_proj (rows z, x, B, C, dt, A, trap, angles), dt_bias and D (nheads,),
    B_bias and C_bias (nheads, rank, d_state), B_norm, C_norm, out_proj; mimo_x, mimo_z, mimo_o (nheads, rank, headdim) if is_mimo; norm
    if is_outproj_norm. a_activation (no argument of upstream's): of the decay rate, "heavy_tail" as in upstream's main branch, or
    "softplus" as in its release 2.3.2.post1. Source: Mamba-3, section 3 and figure 2."""

    @_either_order
    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        rope_fraction: float = 0.5,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        A_floor: float = 1e-4,
        is_outproj_norm: bool = False,
        is_mimo: bool = False,
        mimo_rank: int = 4,
        fuse_pregate_headwise_norm: bool = True,
        chunk_size: int = 64,
        dropout: float = 0.0,
        layer_idx: int | None = None,
        n_layer: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.expand, self.headdim = d_model, d_state, expand, headdim
        self.chunk_size, self.layer_idx, self.A_floor = chunk_size, layer_idx, A_floor
        self.is_outproj_norm, self.is_mimo, self.mimo_rank = is_outproj_norm, is_mimo, mimo_rank if is_mimo else 1
        self.fuse_pregate_headwise_norm = bool(fuse_pregate_headwise_norm and is_mimo and is_outproj_norm)
        activation = kwargs.get("a_activation")
        if activation not in (None, *ACTIVATIONS):
            raise _wrong("a_activation", activation, ", ".join(ACTIVATIONS))
        if d_state % 2:
            raise _wrong("d_state", d_state, "2, 4, 6, ...")
        if is_mimo and mimo_rank < 1:
            raise _wrong("mimo_rank", mimo_rank, ">= 1")
        self.a_activation: str = activation or "heavy_tail"
        self._says_activation = activation is not None
        self.d_inner = int(expand * d_model)
        self.num_bc_heads = ngroups
        assert self.d_inner % headdim == 0, f"headdim ({headdim}) must divide expand * d_model ({self.d_inner})"
        self.nheads = self.d_inner // headdim
        assert self.nheads % ngroups == 0, f"ngroups ({ngroups}) must divide the number of heads ({self.nheads})"
        assert rope_fraction in (0.5, 1.0), f"rope_fraction must be 0.5 or 1.0, not {rope_fraction}"
        self.rotary_dim_divisor = int(2 / rope_fraction)
        self.num_rope_angles = int(d_state * rope_fraction) // 2
        self.split_tensor_size = 2 * self.num_rope_angles
        assert self.num_rope_angles > 0, f"d_state ({d_state}) is too small for pairs that turn"
        factory_kwargs: dict[str, Any] = {"device": device, "dtype": dtype}

        self.in_proj = nn.Linear(d_model, sum(self._widths()), bias=False, **factory_kwargs)
        self.dt_bias = marked(nn.Parameter(initial_dt_bias(self.nheads, dt_min, dt_max, dt_init_floor, device)), "_no_weight_decay")
        self.B_bias, self.C_bias = (
            nn.Parameter(torch.ones(self.nheads, self.mimo_rank, d_state, dtype=torch.float32, device=device)) for _ in "BC"
        )
        self.B_norm, self.C_norm = (RMSNormGated(d_state, eps=1e-5, **factory_kwargs) for _ in "BC")
        if is_mimo:
            ones = torch.ones(self.nheads, self.mimo_rank, headdim, device=device)
            self.mimo_x = nn.Parameter(ones / self.mimo_rank)
            self.mimo_z = nn.Parameter(ones.clone())
            self.mimo_o = nn.Parameter(ones / self.mimo_rank)
        self.D = marked(nn.Parameter(torch.ones(self.nheads, device=device)), "_no_weight_decay")
        if is_outproj_norm:
            self.norm = RMSNormGated(self.d_inner, eps=1e-5, norm_before_gate=True, group_size=headdim, **factory_kwargs)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False, **factory_kwargs)

    def take_activation(self, name: str) -> None:
        """From now on A has this activation, and nobody needs to be told that it was not said."""
        self.a_activation, self._says_activation = name, True

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        if not self._says_activation and prefix + "in_proj.weight" in state_dict:
            warn_once(
                "mamba_ssm.Mamba3: activation of A",
                _(
                    "Mamba3 loads weights that do not say their activation of A: {a_activation} is taken, as in "
                    "mamba_ssm's main branch; weights trained with mamba_ssm 2.3.2.post1 need Mamba3(..., "
                    'a_activation="softplus"), or the same in the ssm_cfg of a MambaConfig'
                ).format(a_activation=self.a_activation),
            )
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(
        self, u: Tensor, seq_idx: Tensor | None = None, cu_seqlens: Tensor | None = None, inference_params: Any = None
    ) -> Tensor:
        """u: (batch, length, d_model). cu_seqlens: (sequences + 1,), the borders of sequences packed into one row, whose states are kept
        apart. seq_idx: (batch, length), the document of each token (upstream ignores it). inference_params: with seqlen_offset > 0
        one token, else a prompt whose states are kept in it."""
        if seq_idx is not None and cu_seqlens is None:
            assert inference_params is None, "states are kept of the sequences of cu_seqlens, not of those of seq_idx"
            return self(u.reshape(1, -1, self.d_model), cu_seqlens=_borders(seq_idx)).view(u.shape)
        states = None
        if inference_params is not None:
            sequences = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
            states = self._get_states_from_cache(inference_params, sequences)
            if inference_params.seqlen_offset > 0:
                # packed prompts go on as a batch
                tokens = u.reshape(sequences, self.d_model) if cu_seqlens is None else u.reshape(-1, self.d_model)
                return self.step(tokens, *states)[0].view(u.shape)
        z, x, B, C, dt, A, trap, angles = self._split(called(self.in_proj, u))
        given = {
            "Q": C, "K": B, "V": x, "ADT": (A * dt).mT, "DT": dt.mT, "Trap": trap.mT, "Angles": angles, "D": self.D,
            "Z": None if self.is_outproj_norm else z, "chunk_size": self.chunk_size, "cu_seqlens": cu_seqlens,
        }  # fmt: skip
        if self.is_mimo:
            y = mamba3_mimo_combined(
                **given, Q_bias=self.C_bias, K_bias=self.B_bias, MIMO_V=self.mimo_x, MIMO_Z=self.mimo_z,
                MIMO_Out=None if self.is_outproj_norm else self.mimo_o, rotary_dim_divisor=self.rotary_dim_divisor, dtype=x.dtype,
                return_state=states is not None,
            )  # fmt: skip
        else:
            given.update(Q=C.squeeze(2), K=B.squeeze(2))
            y = mamba3_siso_combined(
                **given, Q_bias=self.C_bias.squeeze(1), K_bias=self.B_bias.squeeze(1), return_final_states=states is not None
            )
        if states is not None:
            y, angle, ssm, k, v = y
            for state, last in zip(states, (angle, ssm, k if self.is_mimo else k.unsqueeze(1), v)):
                state.copy_(last)
        if self.is_outproj_norm:
            y = self._normed(y if self.is_mimo else y.unsqueeze(-3), z)
        return called(self.out_proj, y.flatten(-2).to(x.dtype))

    def step(
        self, u: Tensor, angle_state: Tensor, ssm_state: Tensor, k_state: Tensor, v_state: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """u: (batch, d_model) or (batch, 1, d_model). The states, shaped as allocate_inference_cache makes them, are changed in place.
        Returns out, shaped like u, and the new states."""
        z, x, B, C, dt, A, trap, angles = self._split(called(self.in_proj, u.reshape(-1, self.d_model)))
        repeats = self.nheads // self.num_bc_heads
        q, k, angle = apply_rotary_qk_inference_fwd(
            q=C.repeat_interleave(repeats, dim=2), k=B.repeat_interleave(repeats, dim=2), angle_state=angle_state, angle_proj=angles,
            dt=dt, bias_q=self.C_bias.transpose(0, 1), bias_k=self.B_bias.transpose(0, 1), rotate_pairwise=not self.is_mimo,
        )  # fmt: skip
        ones = x.new_ones(1).expand(1, self.nheads, self.headdim)
        projections = (self.mimo_x, self.mimo_z, self.mimo_o) if self.is_mimo else None
        up, gate, down = (p.transpose(0, 1) for p in projections) if projections else (ones,) * 3
        ranks = (self.mimo_rank,) if self.is_outproj_norm else ()
        y = x.new_empty(x.shape[0], *ranks, self.nheads, self.headdim)
        mamba3_step_fn(
            ssm_state, k_state, v_state, A, k, q, self.D, x, dt, torch.sigmoid(trap), up,
            outproj=None if self.is_outproj_norm else down, out=y,
            z=None if self.is_outproj_norm else z, zproj=None if self.is_outproj_norm else gate,
        )  # fmt: skip
        if self.is_outproj_norm:
            y = self._normed(y, z)
        out = called(self.out_proj, y.flatten(-2).to(x.dtype)).view(u.shape)
        # many tokens later the sum would have lost the fraction of a turn
        angle_state.copy_(torch.remainder(angle, 2 * math.pi))
        k_state.copy_(k)
        v_state.copy_(x)
        return out, angle_state, ssm_state, k_state, v_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, device: Any = None, dtype: torch.dtype | None = None, inplace_state: Any = None,
        **kwargs: Any,
    ) -> States:  # fmt: skip
        """Zero states: angles (batch, nheads, num_rope_angles) and (batch, nheads, headdim, d_state) in float32, the last key (batch, rank,
        nheads, d_state) and value (batch, nheads, headdim) in dtype."""
        weight = self.in_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        shapes = (self.num_rope_angles,), (self.headdim, self.d_state)
        angle, ssm = (torch.zeros(batch_size, self.nheads, *shape, device=device, dtype=torch.float32) for shape in shapes)
        k = torch.zeros(batch_size, self.mimo_rank, self.nheads, self.d_state, device=device, dtype=dtype)
        return angle, ssm, k, torch.zeros(batch_size, self.nheads, self.headdim, device=device, dtype=dtype)

    def _get_states_from_cache(self, inference_params: Any, batch_size: int, initialize_states: bool = False) -> States:
        return states_from_cache(self, inference_params, batch_size, initialize_states)  # type: ignore[return-value]

    def _widths(self) -> list[int]:
        keys = self.d_state * self.num_bc_heads * self.mimo_rank
        return [self.d_inner, self.d_inner, keys, keys, self.nheads, self.nheads, self.nheads, self.num_rope_angles]

    def _split(self, projected: Tensor) -> tuple[Tensor, ...]:
        """z, x (.., nheads, headdim); B, C (.., rank, groups, d_state), normed; dt, A, trap (.., nheads), dt and A in float32 with their
        bounds, trap as a logit; angles (.., nheads, num_rope_angles), one for all heads. The leading axes of projected stay."""
        z, x, B, C, dt, A, trap, angles = projected.split(self._widths(), dim=-1)
        z, x = (t.unflatten(-1, (self.nheads, self.headdim)) for t in (z, x))
        B, C = (t.unflatten(-1, (self.mimo_rank, self.num_bc_heads, self.d_state)) for t in (B, C))
        decay = decay_rate(_wide(A), self.a_activation, self.A_floor)
        turns = angles.unsqueeze(-2).expand(*angles.shape[:-1], self.nheads, -1)
        return z, x, self.B_norm(B), self.C_norm(C), F.softplus(dt + self.dt_bias), decay, trap, _wide(turns)

    def _normed(self, y: Tensor, z: Tensor) -> Tensor:
        """norm with the gate, then the sum over ranks. y: (.., rank, nheads, headdim). Returns (.., nheads, headdim)."""
        gate = z.unsqueeze(-3)
        if self.is_mimo:
            gate, y = _wide(gate) * self.mimo_z.transpose(0, 1), _wide(y)
        y = self.norm(y.flatten(-2), gate.flatten(-2)).unflatten(-1, (self.nheads, self.headdim))
        return (y * self.mimo_o.transpose(0, 1)).sum(-3) if self.is_mimo else y.squeeze(-3)


def _wrong(name: str, value: Any, allowed: str) -> ArgumentError:
    what = _("Mamba3: {name} is {value!r}").format(name=name, value=value)
    return ArgumentError("shape", what, fix=_("allowed: ") + allowed)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _borders(seq_idx: Tensor) -> Tensor:
    """cu_seqlens of the rows one after another: a sequence begins with each row and each new id."""
    begins = torch.ones_like(seq_idx, dtype=torch.bool)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return F.pad(begins.flatten().nonzero()[:, 0], (0, 1), value=seq_idx.numel())
