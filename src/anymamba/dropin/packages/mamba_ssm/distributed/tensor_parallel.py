"""The names that tensor-parallel code imports. Groups of one member work; for more, anymamba shards by FSDP, not by tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from anymamba.errors import UnsupportedError
from anymamba.language import say


def _one_member(process_group: Any) -> None:
    if process_group is not None and process_group.size() > 1:
        raise UnsupportedError(
            "dropin",
            say("tensor parallelism is not part of anymamba's drop-in", "anymamba 的替身模块不包含张量并行"),
            fix=say("use data parallelism (DDP, FSDP), or the real mamba_ssm", "请使用数据并行（DDP、FSDP）或官方 mamba_ssm"),
        )


class ColumnParallelLinear(nn.Linear):
    """nn.Linear; raises UnsupportedError for a group of more than one member."""

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
        _one_member(process_group)
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.process_group, self.sequence_parallel = process_group, sequence_parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # upstream's name of the argument
        return super().forward(x)


class RowParallelLinear(ColumnParallelLinear):
    """nn.Linear; raises UnsupportedError for a group of more than one member."""


class VocabParallelEmbedding(nn.Embedding):
    """nn.Embedding; raises UnsupportedError for a group of more than one member."""

    def __init__(self, num_embeddings: int, *args: Any, process_group: Any = None, padding_idx: int | None = None, **kwargs: Any) -> None:
        _one_member(process_group)
        super().__init__(num_embeddings, *args, padding_idx=padding_idx, **kwargs)  # type: ignore[misc]
        self.process_group = process_group


class ColumnParallelEmbedding(nn.Embedding):
    """nn.Embedding; raises UnsupportedError for a group of more than one member."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *args: Any, process_group: Any = None, **kwargs: Any) -> None:
        _one_member(process_group)
        super().__init__(num_embeddings, embedding_dim, *args, **kwargs)
        self.process_group = process_group


class ParallelEmbeddings(nn.Module):
    """Embeddings of tokens and, where max_position_embeddings > 0, of positions; raises UnsupportedError for more than one member."""

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
        made: dict[str, Any] = {"process_group": process_group, "device": device, "dtype": dtype}
        self.word_embeddings = VocabParallelEmbedding(vocab_size, embed_dim, padding_idx=padding_idx, **made)
        self.max_position_embeddings = max_position_embeddings
        if max_position_embeddings > 0:
            self.position_embeddings = ColumnParallelEmbedding(max_position_embeddings, embed_dim, **made)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, combine_batch_seqlen_dim: bool = False
    ) -> torch.Tensor:
        """input_ids: (batch, length). Returns (batch, length, embed_dim), or (batch * length, embed_dim) when asked to combine."""
        embedded = self.word_embeddings(input_ids)
        if self.max_position_embeddings > 0:
            if position_ids is None:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
            embedded = embedded + self.position_embeddings(position_ids)
        return embedded.flatten(0, 1) if combine_batch_seqlen_dim else embedded
