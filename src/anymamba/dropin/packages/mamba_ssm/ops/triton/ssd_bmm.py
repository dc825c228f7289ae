"""The products C B^T inside each chunk, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from anymamba.dropin.borrowed import borrowed

from .chunks import chunked


def _bmm_chunk_fwd(
    a: Tensor,
    b: Tensor,
    chunk_size: int,
    seq_idx: Tensor | None = None,
    causal: bool = False,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """a, b: (batch, length, [ngroups,] k). Returns (batch, nchunks, [ngroups,] chunk_size, chunk_size) in output_dtype or a's dtype.

    seq_idx: (batch, length); entries of tokens with different ids are 0. causal: the part above the diagonal may be anything (here: exact).
    """
    rows, columns = (chunked(M if M.dim() == 4 else M[:, :, None], chunk_size) for M in (a, b))
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    out = torch.einsum("bclgk,bcsgk->bcgls", rows.to(wide), columns.to(wide))
    if seq_idx is not None:
        ids = chunked(seq_idx, chunk_size)
        out = out.masked_fill((ids[:, :, :, None] != ids[:, :, None, :])[:, :, None], 0)
    out = out.to(output_dtype or a.dtype)
    return out if a.dim() == 4 else out[:, :, 0]


__getattr__ = borrowed(__name__, "from einops import rearrange, repeat; import torch.nn.functional as F")
