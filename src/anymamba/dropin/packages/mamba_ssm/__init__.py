"""mamba_ssm of anymamba: the API of mamba_ssm 2.3.2.post1 on any device."""

import sys
from typing import Any

from .models.mixer_seq_simple import MambaLMHeadModel
from .modules.mamba2 import Mamba2
from .modules.mamba3 import Mamba3
from .modules.mamba_simple import Mamba
from .ops import for_transformers, selective_scan_interface
from .ops.selective_scan_interface import selective_scan_fn
from .ops.triton import ssd_combined
from .ops.triton.selective_state_update import selective_state_update
from .ops.triton.ssd_combined import mamba_chunk_scan_combined

__version__ = "2.3.2.post1+anymamba"
__anymamba__ = True
__all__ = [
    "Mamba",
    "Mamba2",
    "Mamba3",
    "MambaLMHeadModel",
    "mamba_chunk_scan_combined",
    "mamba_inner_fn",
    "mamba_split_conv1d_scan_combined",
    "selective_scan_fn",
    "selective_state_update",
]


def __getattr__(name: str) -> Any:
    """The fused functions, of which transformers from 5.15 on, and nobody else, may be answered None."""
    if name not in ("mamba_inner_fn", "mamba_split_conv1d_scan_combined"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    asking = sys._getframe(1).f_globals.get("__name__", "")
    if asking.split(".")[0] == "transformers" and for_transformers.may_answer_none():
        return getattr(for_transformers, name)
    return getattr(selective_scan_interface if name == "mamba_inner_fn" else ssd_combined, name)
