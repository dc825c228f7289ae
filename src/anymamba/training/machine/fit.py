"""The micro-batch that fits memory, found before training from one row, not from an error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext
from anymamba.training.data.rows import Batch
from anymamba.training.machine import memory

CPU_TOKENS = 8192
"""Tokens at once beyond which a CPU gains nothing: its matrix products are at full speed, and its caches overflow."""

LARGE, LARGE_CPU_TOKENS = 8_000_000, 2048
"""From so many parameters on, so many tokens do: products of this size are at full speed, and Ctrl-C is answered after a micro-batch."""

GPU_TOKENS = 65536

USABLE = 0.7
"""Share of the free memory that is planned for: allocators need some slack, and other programs live here too."""

TRANSIENT = 1.5
"""What a step takes at its peak over what it keeps between forward and backward pass."""


def kept_bytes(model: nn.Module, batch: Batch, autocast: Callable[[], AbstractContextManager[Any]]) -> int:
    """Bytes that one forward pass of this batch keeps for the backward pass, parameters left out; exact on every device."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast():
        loss = model(batch.input_ids, targets=batch.labels, seq_idx=batch.seq_idx).loss
    del loss
    return sum(storages.values())


def trained_parameters(model: nn.Module) -> int:
    """How many of its parameters are trained: all but the frozen ones."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


FROZEN_BYTES = {"none": 4.0, "int8": 1.1, "int4": 0.7}
"""A frozen weight, by --quantize; embedding, norms and scales raise the average a little."""


def require_model(parameters: int, device: torch.device, trained: int | None = None, quantize: str = "none") -> None:
    """Raises AnymambaError when weights, gradients and the optimiser's moments alone exceed the memory. trained: how many of the
    parameters are not frozen; None: all. quantize: of the frozen ones."""
    needed = int(FROZEN_BYTES[quantize] * parameters) + 12 * (parameters if trained is None else trained)
    free = memory.left(device)
    if free and needed > free:
        raise _too_large(needed, free, _("the weights, gradients and optimiser states"))


def most_rows(length: int, device: torch.device, parameters: int, frozen: bool = False) -> int:
    """Rows at once beyond which the device gains nothing. frozen: few parameters are trained, and activations are most of the memory: half
    as many tokens take half of it, and cost a large model nothing."""
    if device.type in ("cuda", "xpu"):
        return max(1, GPU_TOKENS // length)
    return max(1, (CPU_TOKENS if parameters < LARGE else LARGE_CPU_TOKENS // 2 if frozen else LARGE_CPU_TOKENS) // length)


def choose_rows(
    per_row: int, rows: int, length: int, device: torch.device, reserved: int, parameters: int = 0, frozen: bool = False
) -> int:
    """How many of ``rows`` rows to process at once: a divisor of rows; 0 when not even one fits.

    per_row: ``kept_bytes`` of one row. reserved: bytes that gradients and moments will take of what is free now. parameters: of
    the model. frozen: whether most of them are.
    """
    free = memory.left(device)
    cap = most_rows(length, device, parameters, frozen)
    if free:
        fits = int((free - reserved) * USABLE / (per_row * TRANSIENT))
        if fits < 1:
            return 0
        cap = min(cap, fits)
    return max(size for size in range(1, min(cap, rows) + 1) if rows % size == 0)


def fixed_rows(per_row: int, rows: int, length: int, device: torch.device, reserved: int, parameters: int = 0, frozen: bool = False) -> int:
    """The same on every run, whatever is free at the moment: what the device can use. Raises AnymambaError when that is too much."""
    cap = most_rows(length, device, parameters, frozen)
    chosen = max(size for size in range(1, min(cap, rows) + 1) if rows % size == 0)
    free, needed = memory.left(device), int(chosen * per_row * TRANSIENT) + reserved
    if free and needed > free:
        raise AnymambaError(
            "memory",
            ngettext(
                "{chosen} row at once takes {needed}, and {free} are free",
                "{chosen} rows at once take {needed}, and {free} are free",
                chosen,
            ).format(chosen=chosen, needed=memory.text(needed), free=memory.text(max(0, free))),
            why=_("--deterministic does not fit the rows to the memory of the moment"),
            fix=_("--micro-batch {rows}").format(rows=max(1, chosen // 2)),
        )
    return chosen


def nothing_fits(per_row: int, reserved: int, device: torch.device) -> AnymambaError:
    """The error for a row that does not fit even with activation checkpointing."""
    return _too_large(
        int(per_row * TRANSIENT) + reserved,
        memory.left(device),
        _("one row with its gradients and the optimiser states"),
    )


def _too_large(needed: int, free: int, what: str) -> AnymambaError:
    return AnymambaError(
        "memory",
        _("this model does not fit into memory"),
        why=_("{what} take {needed}, and {free} are free").format(
            what=what, needed=memory.text(needed), free=memory.text(max(0, free))
        ),
        fix=_(
            "choose a smaller --size, a shorter --length, --checkpointing on, or several GPUs with torchrun and --shard"
        ),
    )
