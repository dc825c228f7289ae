"""One small input per op, on which a backend is compared with the float64 reference: outputs, changed states and gradients."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anymamba import reference
from anymamba.backends.call import Call


@dataclass
class Probe:
    """inputs: arguments of the op by name, floating tensors in float64 on the CPU. differentiable: names of those with gradients.
    float32: arguments that stay float32 when the activations are bf16 or fp16. inplace: arguments that the op changes."""

    inputs: dict[str, Any]
    differentiable: tuple[str, ...] = ()
    float32: tuple[str, ...] = ()
    inplace: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def largest_error(function: Callable[..., Any], call: Call) -> tuple[float, str]:
    """Runs the op's probe through ``function`` and the reference. Returns the largest error, relative to the largest magnitude
    of the tensor it is in, and the name of that tensor ("output 0", "gradient of u", ...)."""
    torch_seed = torch.Generator().manual_seed(0)
    probe = PROBES[call.op](lambda *shape: torch.randn(*shape, generator=torch_seed, dtype=torch.float64))
    given = {name: as_given(name, value, probe, call) for name, value in probe.inputs.items()}
    exact = {name: as_exact(value) for name, value in given.items()}
    exact_function = getattr(importlib.import_module(reference.OPS[call.op]), call.op)
    got = outcome(function, given, probe, call.grad)
    want = outcome(exact_function, exact, probe, call.grad)
    worst, where = 0.0, "output 0"
    for name, tensor in want.items():
        error = _relative_error(got[name], tensor)
        if math.isnan(error):  # worse than any number, and no later one may hide it
            return error, name
        if error > worst:
            worst, where = error, name
    return worst, where


def outcome(function: Callable[..., Any], inputs: dict[str, Any], probe: Probe, grad: bool) -> dict[str, Tensor]:
    """What the function does to inputs: its outputs, the states that it changed, and with grad its gradients for a fixed cotangent."""
    inputs = {
        name: value.clone() if isinstance(value, Tensor) and name in probe.inplace else value
        for name, value in inputs.items()
    }
    needs = [name for name in probe.differentiable if grad]
    for name in needs:
        inputs[name] = inputs[name].detach().requires_grad_()
    with torch.set_grad_enabled(bool(needs)):
        outputs = list(_tensors(function(**inputs, **probe.options)))
    result = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
    result.update({f"changed {name}": inputs[name].detach() for name in probe.inplace})
    if needs:
        outputs = [output for output in outputs if output.requires_grad]
        cotangents = [_cotangent(output) for output in outputs]
        gradients = torch.autograd.grad(outputs, [inputs[name] for name in needs], cotangents)
        result.update({f"gradient of {name}": gradient for name, gradient in zip(needs, gradients)})
    return result


def _cotangent(output: Tensor) -> Tensor:
    """Fixed, and different from element to element, so that a permuted gradient does not pass for a right one; multiples of 1/16,
    which every dtype holds exactly."""
    waves = torch.arange(output.numel(), dtype=torch.float64).mul(0.7).cos().mul(16).round().div(16)
    return waves.view(output.shape).to(output)


def _relative_error(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape:
        return float("inf")
    scale = max(want.abs().max().item(), 1e-30)
    return ((as_exact(got) - as_exact(want)).abs().max() / scale).item()


def as_given(name: str, value: Any, probe: Probe, call: Call) -> Any:
    """An input of the probe on the device and in the dtype of the call."""
    if not isinstance(value, Tensor):
        return value
    if value.is_complex():
        return value.to(call.device, torch.promote_types(call.dtype, torch.float32).to_complex())
    if not value.is_floating_point():
        return value.to(call.device)
    keep = name in probe.float32 and call.dtype in (torch.bfloat16, torch.float16)
    return value.to(device=call.device, dtype=torch.float32 if keep else call.dtype)


def as_exact(value: Any) -> Any:
    """The same numbers on the CPU, floating ones in float64, complex ones in complex128."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)


Random = Callable[..., Tensor]

# sizes that no tile divides, so that the border of a kernel is inside the probe
_BATCH, _LENGTH, _DIM, _STATE, _WIDTH = 2, 37, 20, 16, 4
_HEADS, _HEADDIM, _GROUPS = 4, 16, 2
_CHUNK_STATE = 24
"""States of Mamba-2's scan: a wrong gradient of what was compiled for an H100 showed with 24 of them, not with 16."""


def _causal_conv1d_fn(random: Random) -> Probe:
    x = random(_BATCH, _LENGTH, _DIM).transpose(1, 2)
    inputs = {"x": x, "weight": random(_DIM, _WIDTH), "bias": random(_DIM)}
    return Probe(inputs, differentiable=("x", "weight", "bias"), options={"activation": "silu"})


def _causal_conv1d_update(random: Random) -> Probe:
    inputs = {
        "x": random(_BATCH, _DIM),
        "conv_state": random(_BATCH, _DIM, _WIDTH),
        "weight": random(_DIM, _WIDTH),
        "bias": random(_DIM),
    }
    return Probe(inputs, inplace=("conv_state",), options={"activation": "silu"})


def _selective_scan_fn(random: Random) -> Probe:
    inputs = {
        "u": random(_BATCH, _LENGTH, _DIM).transpose(1, 2),
        "delta": random(_BATCH, _LENGTH, _DIM).transpose(1, 2),
        "A": -random(_DIM, _STATE).exp(),
        "B": random(_BATCH, _LENGTH, _STATE).transpose(1, 2),
        "C": random(_BATCH, _LENGTH, _STATE).transpose(1, 2),
        "D": random(_DIM),
        "z": random(_BATCH, _LENGTH, _DIM).transpose(1, 2),
        "delta_bias": random(_DIM) - 2,
    }
    return Probe(
        inputs, differentiable=tuple(inputs), float32=("A", "D", "delta_bias"), options={"delta_softplus": True}
    )


def _selective_state_update(random: Random) -> Probe:
    inputs = {
        "state": random(_BATCH, _HEADS, _HEADDIM, _STATE),
        "x": random(_BATCH, _HEADS, _HEADDIM),
        "dt": random(_BATCH, _HEADS, 1).expand(-1, -1, _HEADDIM),
        "A": -random(_HEADS, 1, 1).exp().expand(-1, _HEADDIM, _STATE),
        "B": random(_BATCH, _GROUPS, _STATE),
        "C": random(_BATCH, _GROUPS, _STATE),
        "D": random(_HEADS, 1).expand(-1, _HEADDIM),
        "z": random(_BATCH, _HEADS, _HEADDIM),
        "dt_bias": random(_HEADS, 1).expand(-1, _HEADDIM) - 2,
    }
    return Probe(inputs, inplace=("state",), float32=("A", "D", "dt_bias"), options={"dt_softplus": True})


def _mamba_chunk_scan_combined(random: Random) -> Probe:
    inputs = {
        "x": random(_BATCH, _LENGTH, _HEADS, _HEADDIM),
        "dt": random(_BATCH, _LENGTH, _HEADS),
        "A": -random(_HEADS).exp(),
        "B": random(_BATCH, _LENGTH, _GROUPS, _CHUNK_STATE),
        "C": random(_BATCH, _LENGTH, _GROUPS, _CHUNK_STATE),
        "D": random(_HEADS),
        "z": random(_BATCH, _LENGTH, _HEADS, _HEADDIM),
        "dt_bias": random(_HEADS) - 2,
        "initial_states": random(_BATCH, _HEADS, _HEADDIM, _CHUNK_STATE),
    }
    options = {"chunk_size": 16, "dt_softplus": True, "return_final_states": True}
    return Probe(inputs, differentiable=tuple(inputs), float32=("A", "D", "dt_bias", "initial_states"), options=options)


def _mamba_inner_fn(random: Random) -> Probe:
    rank = 3
    inputs = {
        "xz": random(_BATCH, _LENGTH, 2 * _DIM).transpose(1, 2),
        "conv1d_weight": random(_DIM, 1, _WIDTH),
        "conv1d_bias": random(_DIM),
        "x_proj_weight": random(rank + 2 * _STATE, _DIM) / _DIM**0.5,
        "delta_proj_weight": random(_DIM, rank) / rank**0.5,
        "out_proj_weight": random(_DIM // 2, _DIM) / _DIM**0.5,
        "out_proj_bias": None,
        "A": -random(_DIM, _STATE).exp(),
        "D": random(_DIM),
        "delta_bias": random(_DIM) - 2,
    }
    names = tuple(name for name, value in inputs.items() if value is not None)
    return Probe(inputs, differentiable=names, float32=("A", "D", "delta_bias"))


def _mamba_split_conv1d_scan_combined(random: Random) -> Probe:
    dim, convolved = _HEADS * _HEADDIM, _HEADS * _HEADDIM + 2 * _GROUPS * _STATE
    inputs = {
        "zxbcdt": random(_BATCH, _LENGTH, dim + convolved + _HEADS),
        "conv1d_weight": random(convolved, _WIDTH),
        "conv1d_bias": random(convolved),
        "dt_bias": random(_HEADS) - 2,
        "A": -random(_HEADS).exp(),
        "D": random(_HEADS),
        "rmsnorm_weight": random(dim),
        "outproj_weight": random(_DIM, dim) / dim**0.5,
    }
    options = {"chunk_size": 16, "headdim": _HEADDIM, "ngroups": _GROUPS, "norm_before_gate": False}
    return Probe(inputs, differentiable=tuple(inputs), float32=("A", "D", "dt_bias"), options=options)


def _mamba3_siso(random: Random) -> Probe:
    angles = 4
    inputs = {
        "Q": random(_BATCH, _LENGTH, _GROUPS, _STATE),
        "K": random(_BATCH, _LENGTH, _GROUPS, _STATE),
        "V": random(_BATCH, _LENGTH, _HEADS, _HEADDIM),
        "ADT": -random(_BATCH, _HEADS, _LENGTH).exp(),
        "DT": random(_BATCH, _HEADS, _LENGTH).sigmoid(),
        "Trap": random(_BATCH, _HEADS, _LENGTH),
        "Q_bias": random(_HEADS, _STATE),
        "K_bias": random(_HEADS, _STATE),
        "Angles": random(_BATCH, _LENGTH, _HEADS, angles),
        "D": random(_HEADS),
        "Z": random(_BATCH, _LENGTH, _HEADS, _HEADDIM),
        "angle_state": random(_BATCH, _HEADS, angles),
        "ssm_state": random(_BATCH, _HEADS, _HEADDIM, _STATE),
        "k_state": random(_BATCH, _HEADS, _STATE),
        "v_state": random(_BATCH, _HEADS, _HEADDIM),
    }
    float32 = ("ADT", "DT", "Q_bias", "K_bias", "D", "angle_state", "ssm_state", "k_state")
    options = {"chunk_size": 16, "return_final_states": True}
    return Probe(inputs, differentiable=tuple(inputs), float32=float32, options=options)


def _mamba3_mimo(random: Random) -> Probe:
    rank = 3
    inputs = {
        "Q": random(_BATCH, _LENGTH, rank, _GROUPS, _STATE),
        "K": random(_BATCH, _LENGTH, rank, _GROUPS, _STATE),
        "V": random(_BATCH, _LENGTH, _HEADS, _HEADDIM),
        "ADT": -random(_BATCH, _HEADS, _LENGTH).exp(),
        "DT": random(_BATCH, _HEADS, _LENGTH).sigmoid(),
        "Trap": random(_BATCH, _HEADS, _LENGTH),
        "Q_bias": random(_HEADS, rank, _STATE),
        "K_bias": random(_HEADS, rank, _STATE),
        "MIMO_V": random(_HEADS, rank, _HEADDIM),
        "MIMO_Z": random(_HEADS, rank, _HEADDIM),
        "MIMO_Out": random(_HEADS, rank, _HEADDIM),
        "Angles": random(_BATCH, _LENGTH, _HEADS, _STATE // 4),
        "D": random(_HEADS),
        "Z": random(_BATCH, _LENGTH, _HEADS, _HEADDIM),
    }
    float32 = ("ADT", "DT", "Q_bias", "K_bias", "MIMO_V", "MIMO_Z", "MIMO_Out", "D")
    options = {"chunk_size": 16, "rotary_dim_divisor": 4, "dtype": None, "return_state": True}
    return Probe(inputs, differentiable=tuple(inputs), float32=float32, options=options)


def _mamba3_state_update(random: Random) -> Probe:
    rank = 3
    keys, values, projections = (_BATCH, rank, _HEADS, _STATE), (_BATCH, _HEADS, _HEADDIM), (rank, _HEADS, _HEADDIM)
    inputs = {
        "state": random(_BATCH, _HEADS, _HEADDIM, _STATE),
        "Bstate": random(*keys),
        "Xstate": random(*values),
        "A": -random(_BATCH, _HEADS).exp(),
        "B": random(*keys),
        "C": random(*keys),
        "D": random(_HEADS),
        "x": random(*values),
        "dt": random(_BATCH, _HEADS).sigmoid(),
        "trap": random(_BATCH, _HEADS).sigmoid(),
        "xproj": random(*projections),
        "outproj": random(*projections),
        "z": random(*values),
        "zproj": random(*projections),
    }
    return Probe(inputs, inplace=("state",), float32=("state", "A", "D", "dt", "xproj", "outproj", "zproj"))


def _norm(**options: Any) -> Callable[[Random], Probe]:
    def probe(random: Random) -> Probe:
        inputs = {
            "x": random(_BATCH, _LENGTH, _DIM),
            "weight": random(_DIM),
            "bias": None,
            "residual": random(_BATCH, _LENGTH, _DIM),
        }
        return Probe(inputs, differentiable=("x", "weight", "residual"), options={"prenorm": True, **options})

    return probe


def _gated_norm(random: Random) -> Probe:
    inputs = {
        "x": random(_BATCH, _LENGTH, _DIM),
        "weight": random(_DIM),
        "bias": None,
        "z": random(_BATCH, _LENGTH, _DIM),
    }
    return Probe(
        inputs, differentiable=("x", "weight", "z"), options={"group_size": _DIM // 2, "norm_before_gate": False}
    )


def _log_softmax_and_slope(random: Random) -> Probe:
    # a row of more than one block of a kernel, with a few words that are likely, as wrong probabilities of others would not be seen
    inputs = {"logits": 4 * random(3, 8219), "targets": torch.tensor([8218, 0, 4100])}
    return Probe(inputs, inplace=("logits",), options={"slope": True})


PROBES: dict[str, Callable[[Random], Probe]] = {
    "causal_conv1d_fn": _causal_conv1d_fn,
    "causal_conv1d_update": _causal_conv1d_update,
    "selective_scan_fn": _selective_scan_fn,
    "mamba_inner_fn": _mamba_inner_fn,
    "selective_state_update": _selective_state_update,
    "mamba_chunk_scan_combined": _mamba_chunk_scan_combined,
    "mamba_split_conv1d_scan_combined": _mamba_split_conv1d_scan_combined,
    "mamba3_siso": _mamba3_siso,
    "mamba3_mimo": _mamba3_mimo,
    "mamba3_state_update": _mamba3_state_update,
    "layer_norm_fn": _norm(),
    "rms_norm_fn": _norm(),
    "layernorm_fn": _gated_norm,
    "rmsnorm_fn": _gated_norm,
    "log_softmax_and_slope": _log_softmax_and_slope,
}
