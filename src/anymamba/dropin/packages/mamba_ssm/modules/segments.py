"""What ``inference_params`` and ``step`` lose without a word in upstream, said once; anymamba's own file, not in upstream's tree."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from anymamba.errors import warn_once
from anymamba.language import _


def said_once(inference_params: Any) -> None:
    """inference_params hold a layer's state, and seqlen_offset is 0: the prompt starts from zero, upstream's does too. Said once:
    who meant the second segment of one text would lose the first one without a word. Not after ``reset``, which means a new text."""
    if getattr(inference_params, "is_reset", False) or torch.compiler.is_compiling():
        return
    warn_once(
        "inference_params:segments",
        _(
            "inference_params with seqlen_offset 0 already hold states: they are overwritten, this input starts a new "
            "text. To read one text in segments, take the model with a cache: model = anymamba.load(folder)[0]; cache "
            "= model.make_cache(batch); model(segment, cache=cache). For a new text, call inference_params.reset(...) "
            "first"
        ),
    )


def said_no_gradient(mixer: nn.Module) -> None:
    """A step while training: the states pass no gradient on, upstream's neither. Said once, not where nobody wants gradients."""
    if not (mixer.training and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return
    kind = type(mixer).__name__
    warn_once(
        f"{kind}.step:gradient",
        _(
            "{kind}.step in training mode: no gradient passes through the states, so in_proj and others get none. "
            "Train on whole sequences, or call model.eval() or torch.no_grad() to generate"
        ).format(kind=kind),
    )
