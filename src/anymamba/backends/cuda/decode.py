"""One token through a whole Mamba model in one launch, on NVIDIA cards: what the kernels decode_*.cu are given.

Op by op, a step of a small model is hundreds of kernels of a few microseconds that wait for one another, and a product of a matrix
with one vector through the vendor's library leaves most of the memory's bandwidth unused. See kernels/decode.cuh for how it works.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anymamba.backends.accelerator import processors, shared_memory
from anymamba.backends.cuda import nvrtc
from anymamba.language import _

TYPES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "f16", torch.int8: "int8"}

THREADS = 512
UNROLL = 1
DEPTHS = (16, 8, 4)
"""Pieces of 512 bytes of weights that every warp has under way, the first of these that fits: 16 are 128 KiB a multiprocessor, several
microseconds of its bandwidth."""
LOOK_AHEAD = 3
"""Times 4 KiB of weights that a warp asks the second-level cache for before it waits for other blocks, unless its queue holds a layer
anyway: 2229 µs a token of mamba2-2.8b on an H100, 2452 without; 1 % slower for the small ones."""
TOTALS_APART = 1
"""Words from one sum over the blocks to the next. Side by side they are fastest (216 µs a token of mamba-130m on an H100; a sector apart
246, a line apart 221)."""


PRODUCTS = ("FIRST", "SECOND", "OUT", "HEAD")
"""Of a layer with parts of in_proj and with out_proj, and the last with the head: the kinds of the kernel."""


@dataclass(frozen=True)
class Linear:
    """weight: (out, in), contiguous. scale: (out,) float32 of int8 rows. bias: (out,)."""

    weight: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None


@dataclass
class Layer:
    """matrices: in_proj and out_proj, of which a block keeps rows. conv: (channels, taps - 1), ssm: float32; both are
    changed in place. constants: name -> numbers that are read as float32. by_columns: x_proj of Mamba-1, of which a block keeps columns.
    dt_proj: its weight in Mamba-1."""

    matrices: Sequence[Linear]
    conv: Tensor
    ssm: Tensor
    constants: dict[str, Tensor | None]
    by_columns: Linear | None = None
    dt_proj: Tensor | None = None

    @property
    def other(self) -> list[Tensor]:
        """What the kernel's table has between the matrices and the states."""
        return [x for x in (None if self.by_columns is None else self.by_columns.weight, self.dt_proj) if x is not None]


@dataclass
class Model:
    """family: "mamba1" or "mamba2". sizes, floats: further #defines of the kernel file."""

    family: str
    layers: Sequence[Layer]
    embedding: Tensor
    last_norm: Tensor
    head: Linear
    sizes: Mapping[str, int]
    floats: Mapping[str, float] = field(default_factory=dict)


CONSTANTS = {
    "NORM": "norm", "CONV_WEIGHT": "conv_weight", "CONV_BIAS": "conv_bias", "DT_BIAS": "dt_bias", "A_LOG2": "A_log2", "SKIP": "D",
    "GATED_NORM": "gated_norm", "IN_SCALE": "in_scale", "X_SCALE": "x_scale", "OUT_SCALE": "out_scale", "IN_BIAS": "in_bias",
    "OUT_BIAS": "out_bias",
}  # fmt: skip
"""#define -> key of Layer.constants: where a layer's constants begin."""


def suits(model: Model, device: torch.device) -> tuple[bool, str]:
    """Can the kernels serve this model on this device. Looks at sizes and dtypes only."""
    ok, reason = nvrtc.usable(device)
    if not ok:
        return ok, reason
    sizes, weights = model.sizes, [linear.weight for layer in model.layers for linear in layer.matrices] + [model.head.weight]
    kinds = {weight.dtype for weight in weights} | {x.by_columns.weight.dtype for x in model.layers if x.by_columns is not None}
    if len(kinds) > 1 or not kinds <= set(TYPES):
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        return False, _("no fused step for weights in {names}").format(names=names)
    entries = 16 // weights[0].element_size()
    if any(weight.shape[1] % entries or weight.data_ptr() % 16 or not weight.is_contiguous() for weight in weights):
        return False, _("rows of the matrices must be multiples of {entries} long").format(entries=entries)
    n = sizes["N"]
    fits = n in (2, 4, 8, 16, 32) if model.family == "mamba1" else n in (32, 64, 128, 256)
    if not fits:
        return False, _("no fused step for d_state {n}").format(n=n)
    if not _depth(model, processors(device), shared_memory(device)):
        return False, _("the vectors do not fit in shared memory")
    return True, _("the whole step is one CUDA kernel")


class DecodeStep:
    """The kernel with everything it points to. The model's tensors are used where they lie; constants are copied once."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._model, self._device = model, device
        self.blocks = blocks(model, processors(device))
        defines, self._shared = defines_of(model, self.blocks, shared_memory(device))
        self._kernel = nvrtc.kernel(f"decode_{model.family}.cu", f"decode_{model.family}", defines, device)
        self._constants, self._table = pack(model, device)
        self._boxes = torch.zeros(boxes(model, self.blocks), 4, dtype=torch.int32, device=device)
        self._totals = torch.zeros(sums(model) * TOTALS_APART, dtype=torch.int64, device=device)
        self._seen = torch.zeros(sums(model), dtype=torch.int64, device=device)
        self._last_norm = model.last_norm.detach().float().contiguous()
        self.logits = torch.empty(1, model.head.weight.shape[0], dtype=torch.float32, device=device)
        self._tag = 1

    def __call__(self, token: Tensor) -> Tensor:
        """token: one int64 on the device. Returns logits (1, vocabulary) float32, valid until the next call; the states have moved on."""
        model, scale = self._model, self._model.head.scale
        with torch.cuda.device(self._device):
            self._kernel.launch(self.blocks, THREADS, self._shared, [
                self._table.data_ptr(), self._constants.data_ptr(), self._last_norm.data_ptr(), model.embedding.data_ptr(),
                token.data_ptr(), 0 if scale is None else scale.data_ptr(), self._boxes.data_ptr(), self.logits.data_ptr(), self._tag,
                self._totals.data_ptr(), self._seen.data_ptr(),
            ], together=True)  # fmt: skip
        # 32 bits of it are compared, and a letter is overwritten at every step: no old tag is met again
        self._tag = (self._tag + len(model.layers)) % 2**32
        return self.logits


def blocks(model: Model, processors: int) -> int:
    """One a multiprocessor, as long as each keeps a channel and a row of the layers' output: blocks without any would not be waited
    for, and could miss a letter that is overwritten in the next layer."""
    return min(processors, model.sizes["D_MODEL"], model.sizes["D_INNER"], 255)  # a sum counts its blocks in eight bits


def common(model: Model) -> int:
    """Numbers that every block needs: the low-rank dt, B and C of Mamba-1; B, C and dt of Mamba-2."""
    sizes = model.sizes
    return sizes["RANK"] + 2 * sizes["N"] if model.family == "mamba1" else 2 * sizes["GROUPS"] * sizes["N"] + sizes["HEADS"]


def sums(model: Model) -> int:
    """Of these, those to which every block adds its part."""
    return common(model) if model.family == "mamba1" else 0


def boxes(model: Model, count: int) -> int:
    """Letters, of three numbers each, of all vectors of which every block posts its share."""
    vectors = [model.sizes["D_MODEL"], model.sizes["D_INNER"], *([] if sums(model) else [common(model)])]
    return sum(count * -(-max(share(size, count)) // 3) for size in vectors)


def pack(model: Model, device: torch.device) -> tuple[Tensor, Tensor]:
    """Constants (layers, stride) float32; table: addresses of every layer's matrices, other, conv and ssm, then of the head."""
    numbers = [x.detach().reshape(-1) for layer in model.layers for x in _constants(layer) if x is not None]
    # one sequence of copies, which widens what is narrower: for each tensor apart they cost more than a hundred tokens
    constants = torch.cat(numbers).float().view(len(model.layers), -1).to(device)
    addresses: list[int] = []
    for layer in model.layers:
        in_proj, out_proj = (linear.weight for linear in layer.matrices)  # the first two products are with parts of one matrix
        tensors = [in_proj, in_proj, out_proj, *layer.other, layer.conv, layer.ssm]
        addresses += [tensor.data_ptr() for tensor in tensors]
    return constants, torch.tensor([*addresses, model.head.weight.data_ptr()], dtype=torch.int64, device=device)


def _constants(layer: Layer) -> list[Tensor | None]:
    return [layer.constants.get(name) for name in CONSTANTS.values()]


def defines_of(model: Model, count: int, memory: int) -> tuple[dict[str, object], int]:
    """The kernel's #defines for that many blocks, and the bytes of shared memory that a block needs of ``memory``."""
    sizes, layer = model.sizes, model.layers[0]
    weight = layer.matrices[0].weight
    starts, at = {}, 0
    for define, name in CONSTANTS.items():
        starts[define] = at
        at += 0 if layer.constants.get(name) is None else layer.constants[name].numel()  # type: ignore[union-attr]
    depth = _depth(model, count, memory)
    vector, early, partial, squares, mine, _ = _memory(model, count)
    dt_proj = weight.dtype if layer.dt_proj is None else layer.dt_proj.dtype
    defines: dict[str, object] = {
        "NT": THREADS, "UNROLL": UNROLL, "BLOCKS": count, "DEPTH": depth, "LAYERS": len(model.layers),
        **sizes, **starts, "CONSTANTS": at,
        "TW": TYPES[weight.dtype], "TE": TYPES[model.embedding.dtype], "TCONV": TYPES[layer.conv.dtype], "TDT": TYPES[dt_proj],
        "HAS_SCALE": int(layer.matrices[0].scale is not None), "HAS_BIAS": int(layer.constants.get("in_bias") is not None),
        "VOCABULARY": model.head.weight.shape[0], "ROWS": _most_rows(model, count),
        "VECTOR": vector, "EARLY": early, "PARTIAL": partial, "SQUARES": squares, "MINE": mine, "CHANNELS": -(-sizes["D_INNER"] // count),
        "TOTALS_APART": TOTALS_APART, "LOOK_AHEAD": LOOK_AHEAD if _layer_bytes(model) > count * depth * THREADS * 16 else 0,
        **{name: f"{value!r}f" for name, value in model.floats.items()},
        **{f"{name}_SHARERS": sharers(model, name, count) for name in PRODUCTS},
    }  # fmt: skip
    return defines, _bytes(model, count, depth)


@functools.cache
def share(rows: int, count: int) -> tuple[int, ...]:
    """How many rows each block keeps."""
    return tuple(rows * (block + 1) // count - rows * block // count for block in range(count))


def rows_of(model: Model, name: str, count: int) -> tuple[int, ...]:
    """How many rows each block keeps for a product by its name in the kernel. in_proj is cut in two: x and z of Mamba-1; B, C and dt,
    then x and z of Mamba-2."""
    first = model.family == "mamba1"
    inner, sizes = share(model.sizes["D_INNER"], count), model.sizes
    if name == "FIRST":
        return inner if first else share(common(model), count)
    if name == "SECOND":
        return inner if first else tuple(2 * own for own in inner)
    return share(sizes["D_MODEL"] if name == "OUT" else model.head.weight.shape[0], count)


def sharers(model: Model, name: str, count: int) -> int:
    """Warps that share one row, at most: a block deals its units, rows by segments, to its warps in equal runs."""
    wide = model.sizes["D_INNER" if name == "OUT" else "D_MODEL"]
    across = -(-wide // (32 * 16 // model.head.weight.element_size()))
    return _sharers(frozenset(rows_of(model, name, count)), across, THREADS // 32)


@functools.cache
def _sharers(parts: frozenset[int], across: int, warps: int) -> int:
    """parts: rows of a block, however many blocks have so many; across: segments of a row."""
    most = 1
    for rows in parts:
        units = rows * across
        if units < warps:
            most = max(most, across)
            continue
        for row in range(rows):
            first, last = (warps * (row * across + 1) - 1) // units, (warps * (row + 1) * across - 1) // units
            most = max(most, last - first + 1)
    return most


def _memory(model: Model, count: int) -> tuple[int, int, int, int, int, int]:
    """Floats in shared memory: the vector of a product, partial sums of the first product and of the others, sums of squares, what a
    block keeps of its channels, and a vector that every block needs."""
    sizes = model.sizes
    segment = 32 * 16 // model.head.weight.element_size()
    vector = -(-max(sizes["D_INNER"], sizes["D_MODEL"]) // segment) * segment
    early, *others = (max(rows_of(model, name, count)) * sharers(model, name, count) for name in PRODUCTS)
    squares = max(THREADS // 32, sizes.get("GROUPS", 1))
    own = 3 * -(-sizes["D_INNER"] // count) + 2  # the last letter is read to its end
    everybody = -(-common(model) // 4) * 4 + 2 * sums(model)  # and what was seen of the sums
    rest = (early, max(others), squares, own, everybody)
    return vector, *(-(-size // 4) * 4 for size in rest)  # type: ignore[return-value]


def _most_rows(model: Model, count: int) -> int:
    """Of a product of a layer, that one block keeps."""
    return max(max(rows_of(model, name, count)) for name in PRODUCTS[:-1])


def _layer_bytes(model: Model) -> int:
    return sum(linear.weight.numel() * linear.weight.element_size() for linear in model.layers[0].matrices)


def _bytes(model: Model, count: int, depth: int) -> int:
    kinds = len(PRODUCTS) - 1
    entries = kinds + len(model.layers[0].other) + 2
    table = (len(model.layers) * entries + 2) // 2 * 2
    runs, parts = 32 * (kinds + 1) * THREADS // 32, -(-kinds * _most_rows(model, count) // 4) * 4
    floats = parts + -(-model.sizes["D_MODEL"] // 4) * 4 + sum(_memory(model, count))
    return depth * THREADS * 16 + 8 * table + runs + 4 * floats


def _depth(model: Model, processors: int, memory: int) -> int:
    """The deepest ring that fits, 0 when not even the smallest does."""
    count = blocks(model, processors)
    rest = memory - _bytes(model, count, 0)
    return next((depth for depth in DEPTHS if rest >= depth * THREADS * 16), 0)
