"""Which weights a recurrent state belongs to: a state read into another model of the same sizes gives text without an error.

``of(model)`` describes the weights for a file; ``check(model, description)`` says whether a model has the same. All bytes count: one
changed weight is another model. The same checkpoint in another dtype, or with its weights rounded to int8, is the same model; there,
samples of each tensor are compared, exactly where one dtype is the other rounded, else within the rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from anymamba.language import _

SAMPLES = 16
"""Values of a tensor that are kept in the description."""

WORDS = {"cpu": 1 << 15}
"""64-bit words that are summed at once: what a core's cache holds, and elsewhere enough to make a launch worth it."""

_ROUNDING = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""A value's possible change, relative to it, when it is rounded to this dtype (twice the half unit, for two roundings)."""


def of(model: nn.Module) -> dict[str, Any]:
    """JSON values: a digest of every byte, and of each tensor its name, dtype, shape and a few values."""
    digest = hashlib.sha256()
    entries: list[list[Any]] = []
    with torch.inference_mode():
        for name, tensor, scale in _weights(model):
            entry = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
            digest.update(repr(entry).encode() + _sums(tensor) + (b"" if scale is None else _sums(scale)))
            entries.append([*entry, _samples(tensor, scale)[0].tolist()])
    return {"digest": digest.hexdigest(), "tensors": entries}


def check(model: nn.Module, description: dict[str, Any]) -> tuple[bool, str]:
    """(True, how it was found out), or (False, what differs)."""
    own = of(model)
    if own["digest"] == description.get("digest"):
        return True, _("the same weights")
    theirs = {name: (dtype, shape, values) for name, dtype, shape, values in description.get("tensors", [])}
    rounded = False
    with torch.inference_mode():
        for name, tensor, scale in _weights(model):
            if name not in theirs:
                if name == "lm_head.weight":  # int8 gives a head of its own to a model that shared it with the embedding
                    continue
                return False, _("it was made without a tensor {name}").format(name=name)
            dtype, shape, values = theirs[name]
            if list(tensor.shape) != shape:
                here = list(tensor.shape)
                return False, _("{name} had the shape {shape}, here {here}").format(name=name, shape=shape, here=here)
            rounded |= str(tensor.dtype) != "torch." + dtype
            if not _near(tensor, scale, dtype, torch.tensor(values)):
                return False, _("{name} has other values").format(name=name)
    if not rounded:
        return False, _("some weights have other values")
    return True, _("the same weights, rounded")


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """(name, tensor, scale of its rows for int8), each tensor once."""
    state = model.state_dict()
    table = state.get("backbone.embeddings.weight")
    for name in sorted(state):
        tensor = state[name]
        if name.endswith(".scale") and state.get(name.removesuffix("scale") + "weight", tensor).dtype == torch.int8:
            continue
        if name == "lm_head.weight" and table is not None and tensor.data_ptr() == table.data_ptr():
            continue
        yield name, tensor, state.get(name.removesuffix("weight") + "scale") if tensor.dtype == torch.int8 else None


def _sums(tensor: Tensor) -> bytes:
    """Of the tensor's bytes as 64-bit words, each times an odd number of its own, modulo 2**64: no changed word leaves its sum as it was.
    On the tensor's device, for a sum there costs less than bringing the weights to a hash function."""
    content = tensor.contiguous().reshape(-1).view(torch.uint8)
    missing = -content.numel() % 8
    words = torch.nn.functional.pad(content, (0, missing)).view(torch.int64) if missing else content.view(torch.int64)
    at_once = WORDS.get(tensor.device.type, 1 << 22)
    odd = (torch.arange(min(at_once, words.numel()), device=tensor.device) * 2 + 1) * 0x1E3779B97F4A7C15
    sums = [(part * odd[: part.numel()]).sum() for part in words.split(at_once)]
    return torch.stack(sums).cpu().numpy().tobytes() if sums else b""


def _samples(tensor: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values spread over the tensor, float32, and how far rounding may have moved each; both (samples,)."""
    flat = tensor.reshape(-1)
    count = min(SAMPLES, flat.numel())
    places = torch.linspace(0, max(flat.numel() - 1, 0), count, dtype=torch.float64, device=tensor.device).long()
    values = flat[places].float()
    if scale is None:
        return values.cpu(), values.abs().cpu() * _ROUNDING.get(str(tensor.dtype).removeprefix("torch."), 0.0)
    steps = scale[places // tensor.shape[1]].float()
    return (values * steps).cpu(), 0.51 * steps.cpu()


def _near(tensor: Tensor, scale: Tensor | None, dtype: str, other: Tensor) -> bool:
    """Whether ``other``, samples that were saved from a tensor of ``dtype``, can be those of this tensor."""
    own, moved = _samples(tensor, scale)
    saved = getattr(torch, dtype)
    if scale is None and saved.is_floating_point:
        if torch.finfo(saved).bits > torch.finfo(tensor.dtype).bits:
            return torch.equal(other.to(tensor.dtype).float(), own)
        if torch.finfo(saved).bits < torch.finfo(tensor.dtype).bits:
            return torch.equal(own.to(saved).float(), other)
        if saved == tensor.dtype:
            return torch.equal(own, other)
    if not saved.is_floating_point:
        # the saved side is int8, whose steps are not in the description: 127 of them make the largest weight of a row
        return bool(((own - other).abs() <= tensor.float().abs().max().cpu() / 127 * 0.51 + moved + 1e-30).all())
    tolerance = moved + other.abs() * _ROUNDING.get(dtype, 0.0) + 1e-7
    return bool(((own - other).abs() <= tolerance).all())
