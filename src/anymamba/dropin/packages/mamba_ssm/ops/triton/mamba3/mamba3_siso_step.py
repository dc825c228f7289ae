"""One token of the Mamba-3 recurrence."""

from anymamba import ops
from anymamba.dropin.counting import counted

mamba3_siso_step = counted(__name__, ops.mamba3_siso_step)
