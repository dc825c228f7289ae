"""mamba_ssm of anymamba: the API of mamba_ssm 2.3.2.post1 on any device."""

from .models.mixer_seq_simple import MambaLMHeadModel
from .modules.mamba2 import Mamba2
from .modules.mamba3 import Mamba3
from .modules.mamba_simple import Mamba
from .ops.for_transformers import mamba_inner_fn
from .ops.selective_scan_interface import selective_scan_fn
from .ops.triton.selective_state_update import selective_state_update
from .ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined

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
