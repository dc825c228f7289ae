"""What a fused decoding step needs to know of a mixer, beside its weights: two recurrences, each with the sizes that its kernels take.

The kernels read the mixer's weights by these names: in_proj, conv1d, out_proj, A_log, D; by channel x_proj and dt_proj too, by head
dt_bias and norm. Any family whose mixer has them and computes this may say so (``LayerKind.fused_step``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ByChannel:
    """Mamba-1: in_proj gives x and z, (d_inner,) each; x is convolved over conv_kernel tokens with SiLU; x_proj makes dt_rank numbers, B
    and C of it; dt_proj and softplus make dt; every channel has d_state states; the result times SiLU(z) goes through out_proj.

    norm_eps: of an RMS norm without weights on the dt_rank numbers, on B and on C; None: there is none.
    """

    d_inner: int
    d_state: int
    conv_kernel: int
    dt_rank: int
    norm_eps: float | None = None

    @property
    def in_proj(self) -> tuple[tuple[int, bool], ...]:
        """Rows of in_proj in order, and whether they are convolved: x, z."""
        return (self.d_inner, True), (self.d_inner, False)


@dataclass(frozen=True)
class ByHead:
    """Mamba-2: in_proj gives z (d_inner), x (d_inner), B and C (ngroups * d_state each), dt (nheads); x, B and C are convolved over
    conv_kernel tokens with SiLU; dt = softplus(dt + dt_bias), within dt_limit; every head has headdim times d_state states; the result
    times SiLU(z) goes through an RMS norm in ngroups groups with norm_eps and weights, and through out_proj.
    """

    nheads: int
    headdim: int
    ngroups: int
    d_state: int
    conv_kernel: int
    dt_limit: tuple[float, float]
    norm_eps: float

    @property
    def d_inner(self) -> int:
        return self.nheads * self.headdim

    @property
    def in_proj(self) -> tuple[tuple[int, bool], ...]:
        """Rows of in_proj in order, and whether they are convolved: z, x B C, dt."""
        return (self.d_inner, False), (self.d_inner + 2 * self.ngroups * self.d_state, True), (self.nheads, False)
