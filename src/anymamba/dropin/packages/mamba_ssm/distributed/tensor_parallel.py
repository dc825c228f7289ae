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


class RowParallelLinear(ColumnParallelLinear):
    """nn.Linear; raises UnsupportedError for a group of more than one member."""


class VocabParallelEmbedding(nn.Embedding):
    """nn.Embedding; raises UnsupportedError for a group of more than one member."""

    def __init__(self, num_embeddings: int, *args: Any, process_group: Any = None, padding_idx: int | None = None, **kwargs: Any) -> None:
        _one_member(process_group)
        super().__init__(num_embeddings, *args, padding_idx=padding_idx, **kwargs)
        self.process_group = process_group


class ColumnParallelEmbedding(nn.Embedding):
    """nn.Embedding; raises UnsupportedError for a group of more than one member."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *args: Any, process_group: Any = None, **kwargs: Any) -> None:
        _one_member(process_group)
        super().__init__(num_embeddings, embedding_dim, *args, **kwargs)
        self.process_group = process_group
