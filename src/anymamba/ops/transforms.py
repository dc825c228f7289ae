"""Is this call inside of a transformation of torch.func (vmap, grad, jvp, ...) or of forward-mode differentiation."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """True inside of torch.func's transformations and of ``forward_ad.dual_level``: values cannot be read there, and kernels
    that take addresses cannot run."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
