"""custom_fwd and custom_bwd of torch.amp for whatever device autocast is on here."""

from __future__ import annotations

from functools import partial

import torch

_device_type = "cuda" if torch.cuda.is_available() else "cpu"
custom_fwd = partial(torch.amp.custom_fwd, device_type=_device_type)
custom_bwd = partial(torch.amp.custom_bwd, device_type=_device_type)
