"""Layers whose weights are shared out over a process group: columns of one product, rows of the next (Megatron-LM).

With sequence_parallel the tokens, along the first axis, are shared out as well: gathered before a column product, scattered after a
row product. Without it every member has all tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup as ProcessGroup

from anymamba.dropin.borrowed import borrowed
from anymamba.models.plain import plain_class

from .distributed_utils import all_gather, all_reduce, all_reduce_raw, get_dim_for_local_rank, reduce_scatter


class _Copied(torch.autograd.Function):
    """The same tensor on every member; its gradient is the sum of the members' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, process_group: Any) -> Tensor:
        ctx.process_group = process_group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return all_reduce_raw(grad_output.clone(), ctx.process_group)[0], None


class ParallelLinearFunc:
    """Kept for callers of the class: ``apply`` is parallel_linear_func, differentiated by autograd."""

    @staticmethod
    def apply(*arguments: Any) -> Tensor:
        return parallel_linear_func(*arguments)


def parallel_linear_func(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, process_group: Any = None, sequence_parallel: bool = True
) -> Tensor:
    """F.linear of x, (tokens, ..., in_features), with this member's columns of the weight. In a group with sequence_parallel x has this
    member's tokens and the result those of all."""
    if process_group is not None:
        x = all_gather(x, process_group) if sequence_parallel else _Copied.apply(x, process_group)
    return F.linear(x, weight, bias)


def _share(name: str, features: int, process_group: Any, multiple_of: int) -> int:
    if features % multiple_of:
        raise ValueError(f"{name} ({features}) must be a multiple of {multiple_of}")
    return get_dim_for_local_rank(features, process_group.size(), process_group.rank(), multiple_of)


class ColumnParallelLinear(nn.Linear):
    """This member's part of out_features. Raises ValueError if multiple_of does not divide them."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        process_group: Any,
        bias: bool = True,
        sequence_parallel: bool = True,
        multiple_of: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        share = _share("out_features", out_features, process_group, multiple_of)
        super().__init__(in_features, share, bias=bias, device=device, dtype=dtype)
        self.process_group, self.sequence_parallel = process_group, sequence_parallel

    def forward(self, x: Tensor) -> Tensor:  # upstream's name of the argument
        return parallel_linear_func(x, self.weight, self.bias, self.process_group, self.sequence_parallel)


@plain_class  # Mamba2's fused path sums over the group itself
class RowParallelLinear(nn.Linear):
    """This member's part of in_features; only the first member has the bias. Raises ValueError like ColumnParallelLinear."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        process_group: Any,
        bias: bool = True,
        sequence_parallel: bool = True,
        multiple_of: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        share = _share("in_features", in_features, process_group, multiple_of)
        super().__init__(share, out_features, bias=bias and process_group.rank() == 0, device=device, dtype=dtype)
        self.process_group, self.sequence_parallel = process_group, sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        out = parallel_linear_func(x, self.weight, self.bias)
        return (reduce_scatter if self.sequence_parallel else all_reduce)(out, self.process_group)


class VocabParallelEmbedding(nn.Embedding):
    """This member's rows of the table; other tokens become zeros, so that the sum over the group is the embedding.

    Raises ValueError if the group does not divide num_embeddings, RuntimeError for a padding_idx in a group.
    """

    def __init__(self, num_embeddings: int, *args: Any, process_group: Any = None, padding_idx: int | None = None, **kwargs: Any) -> None:
        members = 1 if process_group is None else process_group.size()
        if num_embeddings % members:
            raise ValueError(f"num_embeddings ({num_embeddings}) must be divisible by world_size ({members})")
        if members > 1 and padding_idx is not None:
            raise RuntimeError("ParallelEmbedding does not support padding_idx")
        super().__init__(num_embeddings // members, *args, padding_idx=padding_idx, **kwargs)  # type: ignore[misc]
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        if self.process_group is None:
            return super().forward(input)
        row = input - self.process_group.rank() * self.num_embeddings
        other = (row < 0) | (row >= self.num_embeddings)
        return super().forward(row.masked_fill(other, 0)).masked_fill(other[..., None], 0)


class ColumnParallelEmbedding(nn.Embedding):
    """This member's columns of the table. Raises ValueError if the group does not divide embedding_dim."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *args: Any, process_group: Any = None, **kwargs: Any) -> None:
        members = 1 if process_group is None else process_group.size()
        if embedding_dim % members:
            raise ValueError(f"embedding_dim ({embedding_dim}) must be divisible by world_size ({members})")
        super().__init__(num_embeddings, embedding_dim // members, *args, **kwargs)
        self.process_group = process_group


class ParallelEmbeddings(nn.Module):
    """Embeddings of tokens and, where max_position_embeddings > 0, of positions."""

    def __init__(
        self,
        embed_dim: int,
        vocab_size: int,
        max_position_embeddings: int,
        process_group: Any,
        padding_idx: int | None = None,
        sequence_parallel: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.process_group, self.sequence_parallel = process_group, sequence_parallel
        factory_kwargs: dict[str, Any] = {"process_group": process_group, "device": device, "dtype": dtype}
        self.word_embeddings = VocabParallelEmbedding(vocab_size, embed_dim, padding_idx=padding_idx, **factory_kwargs)
        self.max_position_embeddings = max_position_embeddings
        if max_position_embeddings > 0:
            self.position_embeddings = ColumnParallelEmbedding(max_position_embeddings, embed_dim, **factory_kwargs)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, combine_batch_seqlen_dim: bool = False) -> Tensor:
        """input_ids: (batch, length). Returns (batch, length, embed_dim), or (batch * length, embed_dim) when asked to combine; with
        sequence_parallel in a group this member's part of the first axis."""
        members = 1 if self.process_group is None else self.process_group.size()
        embedded = self.word_embeddings(input_ids)
        if self.max_position_embeddings > 0:
            if position_ids is None:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
            positions = self.position_embeddings(position_ids)
            if members > 1:
                before = self.process_group.rank() * positions.shape[-1]
                positions = F.pad(positions, (before, embedded.shape[-1] - before - positions.shape[-1]))
            embedded = embedded + positions
        embedded = embedded.flatten(0, 1) if combine_batch_seqlen_dim else embedded
        if members == 1:
            return embedded
        return (reduce_scatter if self.sequence_parallel else all_reduce)(embedded, self.process_group)


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange; from ..utils.torch import custom_bwd, custom_fwd; "
    "from .distributed_utils import all_gather_raw, reduce_scatter_raw",
)
