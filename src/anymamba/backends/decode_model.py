"""What a step of decoding reads and changes: a model of one of two recurrences as tensors, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.reference import blocks


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


Recurrence = ByChannel | ByHead
Tensors = dict[str, Tensor]
_PRODUCTS = "in_proj", "out_proj", "x_proj"


def _depth(product: str, recurrence: Recurrence, d_model: int) -> int:
    return d_model if product == "in_proj" else recurrence.d_inner


@dataclass(frozen=True)
class DecodeModel:
    """An embedding, blocks of norm and mixer, a norm and a head. Norms are RMS norms with norm_eps.

    recurrences: of every block's mixer. layers: its tensors, those that it has of: norm; in_proj, out_proj (out, in), x_proj and dt_proj of
    Mamba-1; in_proj_bias, out_proj_bias; in_proj_scale, out_proj_scale, x_proj_scale, (out,) float32 of int8 rows (the
    matrices may be uint8 in blocks, too); conv_weight (channels, conv_kernel), conv_bias; dt_bias, A_log, D; gated_norm
    of Mamba-2. states: conv (batch, channels, conv_kernel - 1), the inputs of the last tokens, and ssm (batch, d_inner, d_state)
    or (batch, nheads, headdim, d_state); a step changes them in place, and tells ``advance`` of
    how many tokens they are further, at the latest when it writes them back.
    """

    recurrences: Sequence[Recurrence]
    norm_eps: float
    embedding: Tensor
    layers: Sequence[Tensors]
    norm: Tensor
    head: Tensor
    head_scale: Tensor | None
    states: Sequence[Tensors]
    advance: Callable[[int], None] = lambda tokens: None

    @property
    def batch(self) -> int:
        return self.states[0]["ssm"].shape[0]

    def call(self) -> Call:
        """What the dispatcher is asked."""
        recurrence, layer = self.recurrences[0], self.layers[0]
        d_model = self.norm.shape[0]
        pairs = list(zip(self.layers, self.recurrences))
        products = [(one[name], _depth(name, of, d_model)) for one, of in pairs for name in _PRODUCTS if name in one]
        dtypes = {f"{blocks.name_of(weight, depth)}_weights" for weight, depth in [*products, (self.head, d_model)]}
        if self.embedding.dtype == torch.uint8:
            dtypes.add(f"{blocks.name_of(self.embedding, d_model)}_weights")
        features = dtypes | {name for name in ("in_proj_bias", "out_proj_bias", "conv_bias") if name in layer}
        features |= {"by_channel" if isinstance(one, ByChannel) else "by_head" for one in self.recurrences}
        if any(one != recurrence for one in self.recurrences):
            features.add("mixed_recurrences")
        if isinstance(recurrence, ByHead):
            numbers = {"nheads": recurrence.nheads, "headdim": recurrence.headdim, "ngroups": recurrence.ngroups}
        else:
            numbers = {"dt_rank": recurrence.dt_rank}
            features |= {"normed"} if recurrence.norm_eps is not None else set()
        numbers |= {
            "batch": self.batch, "d_inner": recurrence.d_inner, "d_model": d_model, "d_state": recurrence.d_state,
            "layers": len(self.layers), "vocabulary": self.head.shape[0], "width": recurrence.conv_kernel,
        }  # fmt: skip
        if any(state["ssm"].dtype != torch.float32 or not state["ssm"].is_contiguous() for state in self.states):
            features.add("other_states")
        if any(not weight.is_contiguous() or weight.data_ptr() % 16 for weight in [*(weight for weight, _ in products), self.head]):
            features.add("unaligned")
        dtype = self.norm.dtype if self.embedding.dtype == torch.uint8 else self.embedding.dtype
        return Call(
            "decode_step", self.embedding.device, dtype, False, frozenset(features), tuple(sorted(numbers.items()))
        )


class Stepper(Protocol):
    """Reads tokens of some texts, one a text at a time. name, why: what it is and why it is that, for reports."""

    name: str
    why: str

    def step(self, ids: Tensor) -> Tensor:
        """ids (rows,) -> logits (rows, vocabulary) in float32, valid until the next call."""

    def write_back(self) -> None:
        """Makes the states hold what the last step left: until then a stepper may have them in a layout of its own."""


@dataclass(frozen=True)
class OwnStep:
    """A model's own step, module by module. forward: ids (rows, 1) -> logits (rows, vocabulary) float32; it changes ``state`` and counts
    its tokens. For a captured graph of it, advance: counts tokens; rewind: takes back the count of all since this object was made."""

    forward: Callable[[Tensor], Tensor]
    state: Sequence[Tensor]
    rows: int
    device: torch.device
    advance: Callable[[int], None]
    rewind: Callable[[], None]


def one_step(stepper: Stepper, ids: Tensor) -> Tensor:
    """decode_step as a function of a backend."""
    logits = stepper.step(ids)
    stepper.write_back()
    return logits
