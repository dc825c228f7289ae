"""Inputs of every op, by size and kind: what the cases are made of. Floating tensors in float64, around 1 unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.probes import Probe, Random

Build = Callable[[Random], Probe]


def scan(
    length: int, batch: int = 1, dim: int = 20, states: int = 16, groups: int = 0, dt: float = -2.0, decay: float = 1.0, size: float = 1.0,
    without: tuple[str, ...] = (), constant: bool = False, contiguous: bool = False, last: bool = True,
) -> Build:  # fmt: skip
    """dt: mean of delta before softplus. decay: factor on A. size: factor on u. groups: of B and C; 0: without that dimension.
    without: inputs left out. constant: B and C do not depend on time. contiguous: length runs fastest, as in a user's own tensors;
    otherwise channels do, as the models have it. last: ask for the last state."""

    def build(random: Random) -> Probe:
        def wide(*shape: int) -> Tensor:
            return laid_out(random(batch, length, *shape).movedim(1, -1), contiguous)

        def by_group() -> Tensor:
            if constant:
                return random(dim, states)
            return wide(groups, states) if groups else wide(states)

        softplus = "delta_bias" not in without
        inputs = {
            "u": wide(dim) * size,
            "delta": wide(dim) * 0.5 if softplus else wide(dim).abs() * 0.2,
            "A": -random(dim, states).exp() * decay,
            "B": by_group(),
            "C": by_group(),
            "D": random(dim),
            "z": wide(dim),
            "delta_bias": random(dim) * 0.1 + dt,
        }
        inputs = {name: value for name, value in inputs.items() if name not in without}
        options = {"delta_softplus": softplus, "return_last_state": last}
        return Probe(inputs, differentiable=tuple(inputs), float32=("A", "D", "delta_bias"), options=options)

    return build


def ssd(
    length: int, batch: int = 1, heads: int = 4, headdim: int = 16, groups: int = 2, states: int = 24, dt: float = -2.0,
    decay: float = 1.0, size: float = 1.0, documents: int = 0, without: tuple[str, ...] = (), wide_D: bool = False,
    limit: tuple[float, float] | None = None, one_tensor: bool = False, varlen: bool = False, chunk: int = 64, final: bool = True,
) -> Build:  # fmt: skip
    """documents: tokens of each document of a packed row, 0: not packed. wide_D: a D for every channel. limit: dt_limit.
    one_tensor: x, B and C are views of one tensor, as in the model. varlen: states at the ends of sequences as well."""

    def build(random: Random) -> Probe:
        sizes = heads * headdim, groups * states, groups * states
        x, B, C = (random(batch, length, part) for part in sizes)
        if one_tensor:
            x, B, C = torch.cat([x, B, C], dim=-1).split(sizes, dim=-1)
        softplus = "dt_bias" not in without
        inputs = {
            "x": x.unflatten(-1, (heads, headdim)) * size if not one_tensor else x.unflatten(-1, (heads, headdim)),
            "dt": random(batch, length, heads) * 0.5 if softplus else random(batch, length, heads).abs() * 0.2,
            "A": -random(heads).exp() * decay,
            "B": B.unflatten(-1, (groups, states)),
            "C": C.unflatten(-1, (groups, states)),
            "D": random(heads, headdim) if wide_D else random(heads),
            "z": random(batch, length, heads, headdim),
            "dt_bias": random(heads) * 0.1 + dt,
            "initial_states": random(batch, heads, headdim, states),
        }
        inputs = {name: value for name, value in inputs.items() if name not in without}
        names = tuple(inputs)
        options: dict[str, Any] = {"chunk_size": chunk, "dt_softplus": softplus, "return_final_states": final}
        if documents:
            ids = torch.arange(length).div(documents, rounding_mode="floor").int()
            # the rows are cut at different places
            inputs["seq_idx"] = torch.stack([ids.roll(-7 * row).cummax(0).values for row in range(batch)])
        if varlen:
            ends = [0, length // 3, length // 3 + 1, length]
            inputs["seq_idx"] = torch.bucketize(torch.arange(length), torch.tensor(ends[1:-1]), right=True).int()[None]
            inputs["cu_seqlens"] = torch.tensor(ends, dtype=torch.int32)
            options["return_varlen_states"] = True
        if limit is not None:
            options["dt_limit"] = limit
        return Probe(inputs, differentiable=names, float32=("A", "D", "dt_bias", "initial_states"), options=options)

    return build


def conv(
    length: int, width: int, size: float = 1.0, batch: int = 2, dim: int = 20, states: bool = False, documents: int = 0,
    activation: str | None = "silu", bias: bool = True, contiguous: bool = False,
) -> Build:  # fmt: skip
    """states: with earlier inputs, and the last ones returned. documents: tokens of each document of a packed row, 0: not packed."""

    def build(random: Random) -> Probe:
        x = laid_out((random(batch, length, dim) * size).transpose(1, 2), contiguous)
        inputs = {"x": x, "weight": random(dim, width)}
        if bias:
            inputs["bias"] = random(dim)
        options: dict[str, Any] = {"activation": activation}
        if states:
            inputs["initial_states"] = random(batch, width - 1, dim).transpose(1, 2)
            options["return_final_states"] = True
        names = tuple(inputs)
        if documents:
            ids = torch.arange(length).div(documents, rounding_mode="floor").int()
            inputs["seq_idx"] = torch.stack([ids.roll(-2 * row).cummax(0).values for row in range(batch)])
        return Probe(inputs, differentiable=names, options=options)

    return build


def conv_step(
    width: int, batch: int = 2, dim: int = 20, tokens: int = 0, kept: int = 0, activation: str | None = "silu", bias: bool = True,
    circular: bool = False, indexed: bool = False,
) -> Build:  # fmt: skip
    """tokens: of a call, 0: one without that dimension. kept: inputs that the state holds (0: width). circular: cache_seqlens.
    indexed: the rows' states are scattered in a larger tensor."""

    def build(random: Random) -> Probe:
        rows = 3 * batch if indexed else batch
        inputs = {
            "x": random(batch, dim, tokens) if tokens else random(batch, dim),
            "conv_state": random(rows, dim, kept or width),
            "weight": random(dim, width),
        }
        if bias:
            inputs["bias"] = random(dim)
        if circular:
            inputs["cache_seqlens"] = (torch.arange(batch) * 3 + 2).int()
        if indexed:
            inputs["conv_state_indices"] = (torch.arange(batch) * 3 + 1).flip(0).int()
        return Probe(inputs, inplace=("conv_state",), options={"activation": activation})

    return build


def state_step(
    batch: int = 2, heads: int = 4, headdim: int = 16, groups: int = 2, states: int = 16, without: tuple[str, ...] = (), dt: float = -2.0,
    size: float = 1.0, indexed: bool = False, own_A: bool = True,
) -> Build:  # fmt: skip
    """heads 0: the form of Mamba-1, without that dimension. own_A: a decay for every channel and state, as in Mamba-1, not one a head.
    size: factor on the state. indexed: the rows' states are scattered in a larger tensor."""

    def build(random: Random) -> Probe:
        channels = (heads, headdim) if heads else (headdim,)
        softplus = "dt_bias" not in without
        inputs = {
            "state": random(3 * batch if indexed else batch, *channels, states) * size,
            "x": random(batch, *channels),
            "dt": random(batch, *channels) if softplus else random(batch, *channels).abs() * 0.2,
            "A": -random(*channels, states).exp() if own_A else (-random(heads, 1, 1).exp()).expand(-1, headdim, states),
            "B": random(batch, groups, states) if heads else random(batch, states),
            "C": random(batch, groups, states) if heads else random(batch, states),
            "D": random(*channels),
            "z": random(batch, *channels),
            "dt_bias": random(*channels) * 0.1 + dt,
        }
        if not own_A:
            inputs["dt"] = inputs["dt"][..., :1].expand(-1, -1, headdim)
            inputs["dt_bias"] = inputs["dt_bias"][..., :1].expand(-1, headdim)
            inputs["D"] = inputs["D"][..., :1].expand(-1, headdim)
        inputs = {name: value for name, value in inputs.items() if name not in without}
        if indexed:
            inputs["state_batch_indices"] = (torch.arange(batch) * 3 + 1).flip(0).int()
        return Probe(inputs, inplace=("state",), float32=("state", "A", "D", "dt_bias"), options={"dt_softplus": softplus})

    return build


def norm(
    rows: int, size: int, scale: float = 1.0, gated: bool = False, bias: bool = False, without: tuple[str, ...] = (),
    group: int | None = None, norm_first: bool = False, **options: Any,
) -> Build:  # fmt: skip
    """gated: the ops with z. bias: as well as a weight. group: group_size. norm_first: norm_before_gate."""

    def build(random: Random) -> Probe:
        inputs: dict[str, Any] = {"x": random(2, rows, size) * scale, "weight": random(size), "bias": random(size) if bias else None}
        if gated:
            inputs["z"] = random(2, rows, size)
            more: dict[str, Any] = {"norm_before_gate": norm_first, "group_size": group}
        else:
            inputs["residual"] = random(2, rows, size) * scale
            more = {"prenorm": True, **options}
        inputs = {name: value for name, value in inputs.items() if name not in without}
        names = tuple(name for name, value in inputs.items() if value is not None)
        return Probe(inputs, differentiable=names, options=more)

    return build


def logits(tokens: int, vocabulary: int, size: float = 2.0, shift: float = 0.0, slope: bool = True) -> Build:
    """size, shift: of the logits. slope: they are overwritten with it."""

    def build(random: Random) -> Probe:
        inputs = {"logits": random(tokens, vocabulary) * size + shift, "targets": torch.arange(tokens) * 7919 % vocabulary}
        return Probe(inputs, inplace=("logits",), options={"slope": slope})

    return build


def laid_out(x: Tensor, contiguous: bool) -> Tensor:
    """(batch, channels, length) with length contiguous, or with channels contiguous, inside a wider tensor like the halves of xz."""
    if contiguous:
        return x.contiguous()
    rows = x.movedim(-1, 1)
    return torch.cat([rows, rows], dim=-1)[..., : rows.shape[-1]].movedim(1, -1)
