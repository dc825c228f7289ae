"""A Mamba2 shared out over two processes (gloo) against the same one whole.

As a program, one of the two: ``python -m tests.dropin.two_processes RANK FILE``.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist


def shard(whole: Any, part: Any, rank: int) -> None:
    """Copies the rank's half of the whole mixer's parameters: heads, channels and groups are split, d_state is not."""
    inner, states, heads = whole.d_inner, whole.ngroups * whole.d_state, whole.nheads

    def half(tensor: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        return torch.cat([piece.chunk(2)[rank] for piece in tensor.split(sizes)])

    with torch.no_grad():
        part.in_proj.weight.copy_(half(whole.in_proj.weight, [inner, inner, states, states, heads]))
        for name in ("weight", "bias"):
            getattr(part.conv1d, name).copy_(half(getattr(whole.conv1d, name), [inner, states, states]))
        for name in ("dt_bias", "A_log", "D"):
            getattr(part, name).copy_(getattr(whole, name).chunk(2)[rank])
        part.norm.weight.copy_(whole.norm.weight.chunk(2)[rank])
        part.out_proj.weight.copy_(whole.out_proj.weight.chunk(2, dim=1)[rank])


def main(rank: int, file: str) -> None:
    import anymamba

    anymamba.dropin()
    from mamba_ssm.distributed.distributed_utils import allreduce_sequence_parallel_grad, sync_shared_params
    from mamba_ssm.distributed.tensor_parallel import ParallelEmbeddings
    from mamba_ssm.modules.mamba2 import Mamba2

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    group = dist.group.WORLD
    options: dict[str, Any] = {"d_state": 8, "headdim": 8, "ngroups": 2, "chunk_size": 4}
    torch.manual_seed(0)
    whole, x = Mamba2(16, **options), torch.randn(2, 6, 16, requires_grad=True)
    whole(x).square().sum().backward()
    for sequence_parallel in (False, True):
        part = Mamba2(16, **options, process_group=group, sequence_parallel=sequence_parallel)
        shard(whole, part, rank)
        own = x.detach().flatten(0, 1)
        own = (own.chunk(2)[rank] if sequence_parallel else own).clone().requires_grad_()
        y = part(own, seqlen=6)
        expected = whole(x).detach().flatten(0, 1)
        torch.testing.assert_close(y, expected.chunk(2)[rank] if sequence_parallel else expected)
        y.square().sum().backward()
        wanted = x.grad.flatten(0, 1)
        torch.testing.assert_close(own.grad, wanted.chunk(2)[rank] if sequence_parallel else wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            part.out_proj.weight.grad, whole.out_proj.weight.grad.chunk(2, dim=1)[rank], rtol=1e-4, atol=1e-5
        )
    ids = torch.tensor([[0, 3, 5], [7, 1, 2]])
    table, places = torch.randn(8, 4), torch.randn(3, 4)
    embeddings = ParallelEmbeddings(4, 8, 3, group, sequence_parallel=False)
    with torch.no_grad():
        embeddings.word_embeddings.weight.copy_(table.chunk(2)[rank])
        embeddings.position_embeddings.weight.copy_(places.chunk(2, dim=1)[rank])
    torch.testing.assert_close(embeddings(ids), table[ids] + places)
    model = torch.nn.Linear(2, 2)
    for parameter in model.parameters():
        parameter._shared_params = parameter._sequence_parallel = True
        parameter.data.fill_(rank + 1.0)
        parameter.grad = torch.full_like(parameter, rank + 1.0)
    sync_shared_params(model, group)
    allreduce_sequence_parallel_grad(model, group)
    assert all(bool((p == 1).all()) and bool((p.grad == 3).all()) for p in model.parameters())
    dist.destroy_process_group()
    print("equal")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
