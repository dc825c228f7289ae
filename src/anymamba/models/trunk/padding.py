"""Padding of a batch: which tokens are real, and rows with a state that padding must not touch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.models.cache import Cache
from anymamba.ops.calls.checks import has_values


def mask_of(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor | None:
    """(batch, length, 1), 1 for tokens and 0 for padding, or None when nothing is masked.

    Raises ArgumentError for another shape, or other values than 0 and 1: numbers of packed documents belong into seq_idx.
    """
    if attention_mask is None:
        return None
    batch, length = input_ids.shape
    if attention_mask.dim() != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < length:
        raise ArgumentError(
            "shape",
            _(
                "attention_mask has shape {attention_mask_shape}; input_ids {input_ids_shape} need as many rows and "
                "at least as many columns"
            ).format(attention_mask_shape=tuple(attention_mask.shape), input_ids_shape=tuple(input_ids.shape)),
        )
    mask = attention_mask[:, attention_mask.shape[1] - length :]
    if not has_values(mask):
        return mask.unsqueeze(-1)
    if bool((mask == 1).all()):
        return None
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ArgumentError(
            "usage",
            _("attention_mask must be 1 for tokens and 0 for padding"),
            fix=_("pass the numbers of packed documents as seq_idx"),
        )
    return mask.unsqueeze(-1)


def on_the_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask with the padding of each row moved in front of its tokens, whose order stays: every row ends in its last token."""
    if mask_of(attention_mask, input_ids) is None or attention_mask.shape != input_ids.shape:
        return input_ids, attention_mask
    order = (attention_mask != 0).to(torch.int8).sort(dim=1, stable=True).indices
    return input_ids.gather(1, order.to(input_ids.device)), attention_mask.gather(1, order)


def closed_up(input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Where padding stands between tokens of a row, whose state it would let decay: ids, mask (batch, length, 1) with all padding moved in
    front, and the columns (batch, length) from which to take what belongs to each place; None where there is no such padding. A graph
    cannot know, and moves what there is."""
    tokens = mask.squeeze(-1) != 0
    if has_values(mask):
        behind = (~tokens & (tokens.cumsum(1) > 0)).cumsum(1) > 0
        if not bool((tokens & behind).any()):
            return None
    order = tokens.to(torch.int8).sort(dim=1, stable=True).indices
    return input_ids.gather(1, order), mask.gather(1, order.unsqueeze(-1)), order.argsort(1)


def cuts_into(mask: Tensor, cache: Cache) -> bool:
    """Whether padding stands where it would change a state: behind tokens, or in front of a piece that continues a text."""
    if not has_values(mask):
        return False
    tokens = mask.squeeze(-1) != 0
    return cache.tokens > 0 or bool((tokens[:, :-1] & ~tokens[:, 1:]).any())


def read_rows(backbone: nn.Module, input_ids: Tensor, mask: Tensor, cache: Cache) -> Tensor:
    """The hidden states (batch, length, d_model), zeros at padding; rows with the same padding are read together, without it."""
    tokens = mask.squeeze(-1) != 0
    groups: dict[tuple[bool, ...], list[int]] = {}
    for row, pattern in enumerate(tokens.tolist()):
        groups.setdefault(tuple(pattern), []).append(row)
    hidden: Tensor | None = None
    for pattern, rows in groups.items():
        columns = [column for column, real in enumerate(pattern) if real]
        if not columns:
            continue
        where = torch.tensor(rows, device=input_ids.device)
        here = torch.tensor(columns, device=input_ids.device)
        part = cache.select(where)
        read = backbone(input_ids[where[:, None], here], None, None, part)
        if hidden is None:
            hidden = read.new_zeros(*input_ids.shape, read.shape[-1])
        hidden = hidden.index_put((where[:, None], here), read)
        with torch.no_grad():
            for layer, new in zip(cache.layers, part.layers):
                layer.copy_rows_(where, new)
    if hidden is None:  # padding alone
        hidden = backbone(input_ids, mask, None, None) * 0
    return hidden
