"""One process or many: DDP, or FSDP2 with --shard, started by torchrun. The only file that knows torch.distributed.

The same rows make a step whatever the number of processes, and a gradient is the sum over all of them divided by the labels of
the whole step: the numbers differ from one process only by the rounding of the reduction.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anymamba.backends import machine
from anymamba.errors import AnymambaError
from anymamba.language import _


class Processes:
    """This process among all: rank 0 .. world - 1. main: the one that writes and speaks."""

    def __init__(self, device: str = "auto") -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
        self._started = False
        if self.world > 1:
            kind = {"cuda": "nccl", "xpu": "xccl"}.get(self.device.type, "gloo")
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            # preparing a large corpus takes rank 0 longer than the default 10 minutes
            dist.init_process_group(kind, timeout=datetime.timedelta(hours=6))
            self._started = True

    @property
    def main(self) -> bool:
        return self.rank == 0

    def close(self) -> None:
        if self._started:
            dist.destroy_process_group()
            self._started = False

    def wrap(self, model: nn.Module, shard: bool) -> nn.Module:
        """What to call in the place of the model. With ``shard`` the parameters become shards in place."""
        if self.world == 1:
            return model
        if shard:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.world,))
            for block in model.get_submodule("backbone.layers").children():
                fully_shard(block, mesh=mesh)
            return fully_shard(model, mesh=mesh)  # type: ignore[return-value]
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def accumulating(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of one micro-batch: gradients travel only with the last of a step."""
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext() if last else wrapped.no_sync()
        synchronise = getattr(wrapped, "set_requires_gradient_sync", None)  # FSDP2
        if callable(synchronise):
            synchronise(last)
        return contextlib.nullcontext()

    def sum(self, *values: float | Tensor) -> list[float]:
        """Each value summed over all processes."""
        if self.world == 1:
            return [float(value) for value in values]
        packed = torch.stack([torch.as_tensor(value, dtype=torch.float64).detach().cpu() for value in values])
        if self.device.type != "cpu":
            packed = packed.to(self.device, torch.float32 if self.device.type == "mps" else torch.float64)
        dist.all_reduce(packed)
        return [float(value) for value in packed.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return self.sum(float(flag))[0] > 0

    def least(self, value: int) -> int:
        """The smallest of all processes' values."""
        if self.world == 1:
            return value
        packed = torch.tensor([value], device=self.device)
        dist.all_reduce(packed, op=dist.ReduceOp.MIN)
        return int(packed.item())

    @contextmanager
    def main_first(self) -> Iterator[bool]:
        """The block runs in the main process while the others wait, with True; then in the others, with False.

        When it fails in the main process, all stop: the others with an error that refers to it.
        """
        if self.world == 1:
            yield True
            return
        failed = True
        if self.main:
            try:
                yield True
                failed = False
            finally:
                self.sum(float(failed))
        else:
            if self.sum(0.0)[0]:
                raise AnymambaError("parallel", _("the first process failed"))
            yield False


def full(tensor: Tensor) -> Tensor:
    """The whole tensor of a shard, on every process (all must ask); any other tensor as it is."""
    gathered = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered.detach()


def like_shard(whole: Tensor, parameter: Tensor) -> Tensor:
    """The part of a whole tensor that this process keeps of ``parameter``."""
    if not hasattr(parameter, "device_mesh"):
        return whole.to(parameter.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements)


def bare(wrapped: nn.Module) -> nn.Module:
    """The model inside a DDP wrapper."""
    return wrapped.module if isinstance(wrapped, nn.parallel.DistributedDataParallel) else wrapped


def _device(name: str, local_rank: int) -> torch.device:
    device = machine.default_device() if name == "auto" else machine.usable_device(name)
    if device.type in ("cuda", "xpu") and device.index is None:
        return torch.device(device.type, local_rank)
    return device
