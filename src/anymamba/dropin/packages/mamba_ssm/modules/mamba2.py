"""The Mamba-2 mixer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from anymamba.dropin.borrowed import borrowed
from anymamba.models.plain import Weights

from ..distributed.distributed_utils import all_reduce, reduce_scatter
from ..distributed.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from ..ops.triton.layernorm_gated import RMSNorm as RMSNormGated
from ..ops.triton.selective_state_update import selective_state_update
from ..ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
from . import segments
from .convolution import causal_conv1d_varlen_states
from .mamba_simple import initial_dt_bias, marked, states_from_cache
from .modules_as_weights import called, convolved, convolved_step, fusible


class Mamba2(nn.Module, PyTorchModelHubMixin):
    """(batch, length, d_model) to the same shape. Parameters: in_proj (rows z0, x0, z, x, B, C, dt), conv1d, dt_bias, A_log and
    D (nheads,) or (d_ssm,), norm, out_proj. d_ssm: channels of the scan, the others are a gated MLP. Source: Mamba-2, section 7."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: int = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        process_group: Any = None,
        sequence_parallel: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.conv_init, self.expand = d_model, d_state, d_conv, conv_init, expand
        self.process_group, self.sequence_parallel = process_group, sequence_parallel
        self.world_size = 1 if process_group is None else process_group.size()
        self.local_rank = 0 if process_group is None else process_group.rank()
        self.d_inner = expand * d_model // self.world_size
        self.headdim = headdim
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm // self.world_size
        self.ngroups = ngroups // self.world_size
        assert self.d_inner * self.world_size == expand * d_model, "the process group must divide expand * d_model"
        assert self.ngroups * self.world_size == ngroups, "the process group must divide ngroups"
        assert self.d_ssm % headdim == 0, f"headdim ({headdim}) must divide d_ssm ({self.d_ssm})"
        assert 0 < A_init_range[0] <= A_init_range[1], f"A_init_range must be positive and ascending, not {A_init_range}"
        self.nheads = self.d_ssm // headdim
        self.D_has_hdim, self.rmsnorm, self.norm_before_gate, self.dt_limit = D_has_hdim, rmsnorm, norm_before_gate, dt_limit
        self.activation = "silu"
        self.chunk_size, self.use_mem_eff_path, self.layer_idx = chunk_size, use_mem_eff_path, layer_idx
        factory_kwargs: dict[str, Any] = {"device": device, "dtype": dtype}
        parallel = {"process_group": process_group, "sequence_parallel": sequence_parallel, "bias": bias, **factory_kwargs}

        projected = 2 * self.d_inner + 2 * self.ngroups * d_state + self.nheads
        if process_group is None:
            self.in_proj = nn.Linear(d_model, projected, bias=bias, **factory_kwargs)
        else:
            self.in_proj = ColumnParallelLinear(d_model, projected * self.world_size, **parallel)
        convolved = self.d_ssm + 2 * self.ngroups * d_state
        self.conv1d = nn.Conv1d(convolved, convolved, d_conv, groups=convolved, padding=d_conv - 1, bias=conv_bias, **factory_kwargs)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.act = nn.SiLU()
        dt_bias = initial_dt_bias(self.nheads, dt_min, dt_max, dt_init_floor, **factory_kwargs)
        self.dt_bias = marked(nn.Parameter(dt_bias), "_no_weight_decay")
        A = torch.empty(self.nheads, dtype=torch.float32, device=device).uniform_(*A_init_range)
        self.A_log = marked(nn.Parameter(A.log().to(dtype)), "_no_weight_decay")
        self.D = marked(nn.Parameter(torch.ones(self.d_ssm if D_has_hdim else self.nheads, device=device)), "_no_weight_decay")
        if rmsnorm:
            self.norm = RMSNormGated(
                self.d_ssm, eps=1e-5, norm_before_gate=norm_before_gate, group_size=self.d_ssm // ngroups, **factory_kwargs
            )
        if process_group is None:
            self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory_kwargs)
        else:
            self.out_proj = RowParallelLinear(self.d_inner * self.world_size, d_model, **parallel)

    def forward(
        self,
        u: Tensor,
        seqlen: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        inference_params: Any = None,
    ) -> Tensor:
        """u: (batch, length, d_model), or with seqlen (batch * seqlen, d_model). seq_idx: (batch, length), the document of each token.
        cu_seqlens: (sequences + 1,), with inference_params: the prompts packed into one row, whose states are kept apart."""
        batch = u.shape[0] if seqlen is None else u.shape[0] // seqlen
        conv_state = ssm_state = None
        if inference_params is not None:
            sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
            conv_state, ssm_state = self._get_states_from_cache(inference_params, sequences)
            if inference_params.seqlen_offset > 0:
                return self.step(u, conv_state, ssm_state)[0]
        zxbcdt = called(self.in_proj, u)
        if seqlen is not None:
            zxbcdt = zxbcdt.unflatten(0, (-1, seqlen))
        weights = self._fusible() if self.use_mem_eff_path and inference_params is None else None
        if weights is not None:
            conv1d, out_proj, *norm = weights
            out = mamba_split_conv1d_scan_combined(
                zxbcdt,
                conv1d.weight[:, 0],
                conv1d.bias,
                self.dt_bias,
                self._A(),
                D=self._D(),
                chunk_size=self.chunk_size,
                seq_idx=seq_idx,
                dt_limit=self.dt_limit,
                activation=self.activation,
                rmsnorm_weight=norm[0].weight if norm else None,
                rmsnorm_eps=self.norm.eps if norm else 1e-6,
                outproj_weight=out_proj.weight,
                outproj_bias=out_proj.bias,
                headdim=None if self.D_has_hdim else self.headdim,
                ngroups=self.ngroups,
                norm_before_gate=self.norm_before_gate,
            )
            out = out if seqlen is None else out.flatten(0, 1)
            if self.process_group is None:
                return out
            return (reduce_scatter if self.sequence_parallel else all_reduce)(out, self.process_group)
        y = self._scan(zxbcdt, seq_idx, cu_seqlens, conv_state, ssm_state)
        return called(self.out_proj, y if seqlen is None else y.flatten(0, 1))

    def _scan(
        self, zxbcdt: Tensor, seq_idx: Tensor | None, cu_seqlens: Tensor | None, conv_state: Tensor | None, ssm_state: Tensor | None
    ) -> Tensor:
        z0, x0, z, xBC, dt = self._split(zxbcdt)
        if conv_state is not None:
            if cu_seqlens is None:
                conv_state.copy_(F.pad(xBC.mT, (self.d_conv - xBC.shape[1], 0)))
            else:
                assert xBC.shape[0] == 1, "cu_seqlens needs a batch of 1"
                conv_state.copy_(causal_conv1d_varlen_states(xBC[0], cu_seqlens, state_len=conv_state.shape[-1]))
        mixed = convolved(self, xBC.mT, seq_idx).mT
        x, B, C = mixed.split([self.d_ssm, self.ngroups * self.d_state, self.ngroups * self.d_state], dim=-1)
        varlen = cu_seqlens is not None and ssm_state is not None
        y = mamba_chunk_scan_combined(
            x.unflatten(2, (self.nheads, self.headdim)),
            dt,
            self._A(),
            B.unflatten(2, (self.ngroups, self.d_state)),
            C.unflatten(2, (self.ngroups, self.d_state)),
            chunk_size=self.chunk_size,
            D=self._D(),
            z=None if self.rmsnorm else z.unflatten(2, (self.nheads, self.headdim)),
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.dt_limit,
            seq_idx=seq_idx,
            cu_seqlens=cu_seqlens,
            return_final_states=ssm_state is not None,
            return_varlen_states=varlen,
        )
        if ssm_state is not None:
            y, *states = y
            ssm_state.copy_(states[-1])
        return self._gated(y.flatten(2), z0, x0, z)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """hidden_states: (batch, 1, d_model); both states are changed in place and returned."""
        assert hidden_states.shape[1] == 1, "step takes one token at a time"
        segments.said_no_gradient(self)
        z0, x0, z, xBC, dt = self._split(called(self.in_proj, hidden_states[:, 0]))
        mixed = convolved_step(self, xBC, conv_state)
        x, B, C = mixed.split([self.d_ssm, self.ngroups * self.d_state, self.ngroups * self.d_state], dim=-1)
        heads = (self.nheads, self.headdim)
        D = self._D()
        dt_bias: Tensor | None = self.dt_bias
        if self.dt_limit != (0.0, float("inf")):  # upstream's step forgets the limit; the kernel has no place for it
            dt, dt_bias = F.softplus(dt.float() + self.dt_bias.float()).clamp(*self.dt_limit), None
        y = selective_state_update(
            ssm_state,
            x.unflatten(1, heads),
            dt[..., None].expand(-1, -1, self.headdim),
            self._A()[:, None, None].expand(*heads, self.d_state),
            B.unflatten(1, (self.ngroups, self.d_state)),
            C.unflatten(1, (self.ngroups, self.d_state)),
            D if D.dim() == 2 else D[:, None].expand(heads),
            z=None if self.rmsnorm else z.unflatten(1, heads),
            dt_bias=None if dt_bias is None else dt_bias[:, None].expand(heads),
            dt_softplus=dt_bias is not None,
        )
        return called(self.out_proj, self._gated(y.flatten(1), z0, x0, z))[:, None], conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Zero states: (batch, d_ssm + 2 * ngroups * d_state, d_conv), channels contiguous, and (batch, nheads, headdim, d_state)."""
        weight = self.conv1d.weight
        conv_state = torch.zeros(batch_size, self.d_conv, weight.shape[0], device=weight.device, dtype=dtype or weight.dtype).mT
        ssm_state = torch.zeros(
            batch_size, self.nheads, self.headdim, self.d_state, device=weight.device, dtype=dtype or self.in_proj.weight.dtype
        )
        return conv_state, ssm_state

    def _get_states_from_cache(
        self, inference_params: Any, batch_size: int, initialize_states: bool = False
    ) -> tuple[Tensor, Tensor]:
        return states_from_cache(self, inference_params, batch_size, initialize_states)

    def _fusible(self) -> list[Weights] | None:
        """conv1d, out_proj and, where there is one, norm, if they are nothing but their weights. A row-parallel out_proj sums over
        processes too, which forward does itself."""
        names = ("conv1d", "out_proj", "norm") if self.rmsnorm else ("conv1d", "out_proj")
        return fusible(self, *names)

    def _split(self, zxbcdt: Tensor) -> tuple[Tensor, ...]:
        """z0, x0 (the gated MLP, mostly empty), z, xBC, dt along the last axis."""
        convolved = self.conv1d.weight.shape[0]
        d_mlp = (zxbcdt.shape[-1] - self.d_ssm - convolved - self.nheads) // 2
        return zxbcdt.split([d_mlp, d_mlp, self.d_ssm, convolved, self.nheads], dim=-1)

    def _gated(self, y: Tensor, z0: Tensor, x0: Tensor, z: Tensor) -> Tensor:
        y = self.norm(y, z) if self.rmsnorm else y
        return torch.cat([F.silu(z0) * x0, y], dim=-1) if z0.shape[-1] else y

    def _A(self) -> Tensor:
        return -torch.exp(self.A_log.float())

    def _D(self) -> Tensor:
        return self.D.unflatten(0, (self.nheads, self.headdim)) if self.D_has_hdim else self.D


__getattr__ = borrowed(
    __name__, "from einops import rearrange, repeat; from .convolution import causal_conv1d_fn, causal_conv1d_update"
)
