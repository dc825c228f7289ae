"""The convolution that the mixers use, counted as calls of causal_conv1d; anymamba's own file, not in upstream's tree.

The name ``causal_conv1d`` may belong to a real package that is broken or too old, so the mixers do not go through it.
"""

from __future__ import annotations

from anymamba import ops
from anymamba.dropin.counting import counted

causal_conv1d_fn = counted(__name__, ops.causal_conv1d_fn)
causal_conv1d_update = counted(__name__, ops.causal_conv1d_update)
causal_conv1d_varlen_states = counted(__name__, ops.causal_conv1d_varlen_states)
