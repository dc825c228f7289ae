"""The Mamba-3 recurrence over a sequence, several values a head and token."""

from anymamba import ops
from anymamba.dropin.counting import counted

mamba3_mimo = counted(__name__, ops.mamba3_mimo)
