"""What a fused decoding step needs to know of a mixer, beside its weights: three recurrences, each with the sizes that its kernels take.

The kernels read the mixer's weights by these names: in_proj, conv1d, out_proj, A_log, D; by channel x_proj and dt_proj too, by head
dt_bias and norm; by rank those of ``Mamba3Mixer``; and of a block's MLP fc1 and fc2. Any family whose mixer has them and computes this
may say so (``LayerKind.fused_step``).
"""

from __future__ import annotations

from anymamba.backends.decode_model import ByChannel as ByChannel
from anymamba.backends.decode_model import ByHead as ByHead
from anymamba.backends.decode_model import ByRank as ByRank
from anymamba.backends.decode_model import Recurrence as Recurrence
