"""The softplus that upstream's kernels inline: a Triton function, there where triton is installed."""

from anymamba.dropin.borrowed import borrowed

__getattr__ = borrowed(__name__, "from anymamba.backends.triton.elementary import softplus")
