"""causal_conv1d of anymamba: the API of causal_conv1d 1.7.0 on any device."""

from .causal_conv1d_interface import causal_conv1d_fn, causal_conv1d_update

__version__ = "1.7.0+anymamba"
__anymamba__ = True
__all__ = ["causal_conv1d_fn", "causal_conv1d_update"]
