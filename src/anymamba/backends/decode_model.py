"""What a step of decoding reads and changes: a model of one of three recurrences as tensors, wherever they come from."""

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


@dataclass(frozen=True)
class ByRank:
    """Mamba-3: in_proj gives z, x (d_inner each), B, C (rank * ngroups * d_state each), dt, A, trap (nheads each), angles (num_angles).
    Each B and C goes through an RMS norm with norm_eps and weights, gets its head's bias, and is turned by the sum of
    pi tanh(angles) dt; dt = softplus(dt + dt_bias), A = -f(A), at most -a_floor (see anymamba.reference.mamba3_decay), trap =
    sigmoid(trap); then anymamba.ops.mamba3_state_update. projected: the ranks have projections of their own (MIMO), and the pairs that
    turn are half of d_state apart; else (SISO) neighbours. gated_norm: an RMS norm with weights over each head's result, then the gate.
    """

    nheads: int
    headdim: int
    ngroups: int
    d_state: int
    rank: int
    num_angles: int
    projected: bool
    a_activation: str
    a_floor: float
    norm_eps: float
    gated_norm: bool = False

    @property
    def d_inner(self) -> int:
        return self.nheads * self.headdim

    @property
    def widths(self) -> tuple[int, ...]:
        """Rows of in_proj that make z, x, B, C, dt, A, trap and angles."""
        keys = self.rank * self.ngroups * self.d_state
        return self.d_inner, self.d_inner, keys, keys, self.nheads, self.nheads, self.nheads, self.num_angles

    @property
    def in_proj(self) -> tuple[tuple[int, bool], ...]:
        """All rows of in_proj, of which none is convolved."""
        return ((sum(self.widths), False),)


Recurrence = ByChannel | ByHead | ByRank
Tensors = dict[str, Tensor]
_PRODUCTS = "in_proj", "out_proj", "x_proj", "fc1", "fc2"


def _depth(product: str, layer: Tensors, recurrence: Recurrence, d_model: int) -> int:
    if product == "fc2":
        return layer["fc1"].shape[0] // 2
    return d_model if product in ("in_proj", "fc1") else recurrence.d_inner


@dataclass(frozen=True)
class DecodeModel:
    """An embedding, blocks of norm and mixer, and where they have one norm and gated MLP, a norm and a head. Norms are RMS norms with
    norm_eps; the MLP is fc2(y * silu(gate)), y and gate being the halves of fc1.

    recurrences: of every block's mixer. layers: its tensors, those that it has of: norm; in_proj, out_proj (out, in), x_proj and dt_proj of
    Mamba-1; in_proj_bias, out_proj_bias; in_proj_scale, out_proj_scale, x_proj_scale, (out,) float32 of int8 rows (the
    matrices may be uint8 in blocks, too); conv_weight (channels, conv_kernel), conv_bias; dt_bias, A_log, D; gated_norm of Mamba-2; of
    Mamba-3 instead of a convolution and A_log: B_norm, C_norm (d_state,), B_bias, C_bias (nheads, rank, d_state), mimo_x, mimo_z, mimo_o
    (nheads, rank, headdim), and gated_norm; of a block with an MLP mlp_norm, fc1, fc2 (out, in) and their scales. states: conv
    (batch, channels, conv_kernel - 1), the inputs of the last tokens, and ssm (batch, d_inner, d_state) or (batch, nheads, headdim,
    d_state); of Mamba-3 conv (batch, nheads, rank * d_state + headdim), the last keys and value, and ssm (batch, nheads,
    headdim * d_state + num_angles), states and angles. A step changes them in place, and tells ``advance`` of how many tokens they are
    further, at the latest when it writes them back.
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
        products = [(one[name], _depth(name, one, of, d_model)) for one, of in pairs for name in _PRODUCTS if name in one]
        dtypes = {f"{blocks.name_of(weight, depth)}_weights" for weight, depth in [*products, (self.head, d_model)]}
        if self.embedding.dtype == torch.uint8:
            dtypes.add(f"{blocks.name_of(self.embedding, d_model)}_weights")
        features = dtypes | {name for name in ("in_proj_bias", "out_proj_bias", "conv_bias") if name in layer}
        features |= {_KINDS[type(one)] for one in self.recurrences} | ({"mlp"} if "fc1" in layer else set())
        if any(one != recurrence for one in self.recurrences):
            features.add("mixed_recurrences")
        if isinstance(recurrence, ByHead):
            numbers = {"nheads": recurrence.nheads, "headdim": recurrence.headdim, "ngroups": recurrence.ngroups}
        elif isinstance(recurrence, ByRank):
            numbers = {name: getattr(recurrence, name) for name in ("nheads", "headdim", "ngroups", "rank", "num_angles")}
            features |= {name for name in ("projected", "gated_norm") if getattr(recurrence, name)} | {recurrence.a_activation}
        else:
            numbers = {"dt_rank": recurrence.dt_rank}
            features |= {"normed"} if recurrence.norm_eps is not None else set()
        numbers |= {
            "batch": self.batch, "d_inner": recurrence.d_inner, "d_model": d_model, "d_state": recurrence.d_state,
            "layers": len(self.layers), "vocabulary": self.head.shape[0],
        }  # fmt: skip
        if not isinstance(recurrence, ByRank):
            numbers["width"] = recurrence.conv_kernel
        if any(state["ssm"].dtype != torch.float32 or not state["ssm"].is_contiguous() for state in self.states):
            features.add("other_states")
        if any(not weight.is_contiguous() or weight.data_ptr() % 16 for weight in [*(weight for weight, _ in products), self.head]):
            features.add("unaligned")
        dtype = self.norm.dtype if self.embedding.dtype == torch.uint8 else self.embedding.dtype
        return Call(
            "decode_step", self.embedding.device, dtype, False, frozenset(features), tuple(sorted(numbers.items()))
        )


_KINDS = {ByChannel: "by_channel", ByHead: "by_head", ByRank: "by_rank"}


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
