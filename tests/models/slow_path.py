"""The models as their modules and a loop over tokens, in plain PyTorch: what every fast path has to equal, whatever is attached.

Rows are read one by one, without padding, so nothing here knows of masks. A state is handed on detached, as a cache does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba.models.lm import LanguageModel


class SlowText:
    """One text, read piece by piece; ``read(ids (length,))`` -> logits (length, vocabulary)."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.states = model, [None] * len(model.backbone.layers)

    def read(self, ids: Tensor) -> Tensor:
        backbone: Any = self.model.backbone
        hidden, residual = backbone.embeddings(ids[None]), None
        for index, block in enumerate(backbone.layers):
            hidden, residual = block.norm(hidden, residual, block.residual_in_fp32)
            mix = {"mamba2": _second, "mamba3": _third}.get(self.model.config.model_type, _first)
            hidden, state = mix(block.mixer, hidden, self.states[index])
            self.states[index] = [part.detach() for part in state]
        return self.model.lm_head(backbone.norm_f(hidden, residual, True)[0])[0]


def _convolve(mixer: Any, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """x: (1, length, channels); before: (1, channels, width - 1)."""
    width = mixer.config.conv_kernel
    both = torch.cat([x.new_zeros(1, x.shape[2], width - 1) if before is None else before, x.mT], 2)
    return F.silu(mixer.conv1d(both)).mT, both[:, :, both.shape[2] - width + 1 :]


def _first(mixer: Any, hidden: Tensor, state: Any) -> tuple[Tensor, list[Tensor]]:
    config = mixer.config
    before, ssm = (None, hidden.new_zeros(1, config.d_inner, config.state_size)) if state is None else state
    x, z = mixer.in_proj(hidden).chunk(2, -1)
    x, tail = _convolve(mixer, x, before)
    low, B, C = mixer.x_proj(x).split([config.time_step_rank, config.state_size, config.state_size], -1)
    eps = getattr(config, "mixer_rms_eps", None)
    if eps is not None:
        low, B, C = (part * torch.rsqrt(part.square().mean(-1, keepdim=True) + eps) for part in (low, B, C))
    dt, A = F.softplus(mixer.dt_proj(low)), -torch.exp(mixer.A_log)
    outputs = []
    for t in range(x.shape[1]):
        step, u = dt[:, t, :, None], x[:, t, :, None]
        ssm = torch.exp(step * A) * ssm + step * u * B[:, t, None]
        outputs.append((ssm * C[:, t, None]).sum(-1) + mixer.D * x[:, t])
    return mixer.out_proj(torch.stack(outputs, 1) * F.silu(z)), [tail, ssm]


def _second(mixer: Any, hidden: Tensor, state: Any) -> tuple[Tensor, list[Tensor]]:
    config = mixer.config
    heads, size, groups, n = config.num_heads, config.head_dim, config.n_groups, config.state_size
    before, ssm = (None, hidden.new_zeros(1, heads, size, n)) if state is None else state
    z, xBC, dt = mixer.in_proj(hidden).split([config.d_inner, config.conv_dim, heads], -1)
    xBC, tail = _convolve(mixer, xBC, before)
    x, B, C = xBC.split([config.d_inner, groups * n, groups * n], -1)
    x, B, C = x.unflatten(-1, (heads, size)), B.unflatten(-1, (groups, n)), C.unflatten(-1, (groups, n))
    B, C = (part.repeat_interleave(heads // groups, 2) for part in (B, C))
    dt, A = F.softplus(dt + mixer.dt_bias).clamp(*config.time_step_limit), -torch.exp(mixer.A_log)
    outputs = []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None, None]
        ssm = torch.exp(step * A[:, None, None]) * ssm + step * x[:, t, ..., None] * B[:, t, :, None]
        outputs.append((ssm * C[:, t, :, None]).sum(-1) + mixer.D[:, None] * x[:, t])
    return mixer.out_proj(mixer.norm(torch.stack(outputs, 1).flatten(2), z)), [tail, ssm]


def _third(mixer: Any, hidden: Tensor, state: Any) -> tuple[Tensor, list[Tensor]]:
    config = mixer.config
    heads, size, n, rank, mimo = config.num_heads, config.head_dim, config.state_size, config.rank, config.is_mimo
    z, x, B, C, dt, A, trap, angles = mixer.in_proj(hidden).split(mixer.widths, -1)
    z, x = (part.unflatten(-1, (heads, size)) for part in (z, x))
    B, C = (norm(part.unflatten(-1, (rank, config.n_groups, n))) for norm, part in ((mixer.B_norm, B), (mixer.C_norm, C)))
    B, C = (part.repeat_interleave(heads // config.n_groups, 3) for part in (B, C))  # (1, length, rank, heads, n)
    dt, decay = F.softplus(dt + mixer.dt_bias), -(F.relu(A) + 1 / (1 + F.relu(-A))).clamp(min=config.a_floor)  # heavy_tail
    share = torch.sigmoid(trap)
    up, gate, down = (p.transpose(0, 1) for p in (mixer.mimo_x, mixer.mimo_z, mixer.mimo_o)) if mimo else (None,) * 3
    if not mimo:
        up = gate = down = x.new_ones(1, heads, size)
    if state is None:
        state = (
            x.new_zeros(1, heads, config.num_angles), x.new_zeros(1, heads, size, n), x.new_zeros(1, rank, heads, n),
            x.new_zeros(1, heads, size),
        )  # fmt: skip
    angle, ssm, key, value = state
    outputs = []
    for t in range(x.shape[1]):
        step = dt[:, t]
        angle = angle + math.pi * torch.tanh(angles[:, t, None]) * step[..., None]
        query, new = (
            _turn(part[:, t] + bias.transpose(0, 1), angle[:, None], not mimo) for part, bias in ((C, mixer.C_bias), (B, mixer.B_bias))
        )
        a = torch.exp(decay[:, t] * step)
        earlier, now = (torch.einsum("bhp,rhp,brhn->bhpn", v, up, k) for v, k in ((value, key), (x[:, t], new)))
        s, w = share[:, t], step
        ssm = a[..., None, None] * ssm + ((1 - s) * w * a)[..., None, None] * earlier + (s * w)[..., None, None] * now
        y = torch.einsum("bhpn,brhn->brhp", ssm, query) + mixer.D[:, None] * x[:, t, None] * up
        outputs.append((y * F.silu(z[:, t, None] * gate) * down).sum(1))
        key, value = new, x[:, t]
    return mixer.out_proj(torch.stack(outputs, 1).flatten(2)), [angle, ssm, key, value]


def _turn(x: Tensor, angle: Tensor, neighbours: bool) -> Tensor:
    count, half = angle.shape[-1], x.shape[-1] // 2
    if neighbours:
        first, second = torch.arange(count) * 2, torch.arange(count) * 2 + 1
    else:
        first, second = torch.arange(count), torch.arange(count) + half
    a, b, out = x[..., first], x[..., second], x.clone()
    out[..., first], out[..., second] = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    return out
