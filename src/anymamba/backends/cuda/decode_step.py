"""decode_step of one text on an NVIDIA card: the whole model as a single launch of a kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cuda import decode
from anymamba.backends.decode_model import ByChannel, ByHead, ByRank, DecodeModel, Recurrence, Tensors, one_step
from anymamba.language import _

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}


def supports(call: Call) -> tuple[bool, str]:
    """One text, blocks that are all alike, and sizes for which there is a kernel and room in shared memory."""
    batch = call.size("batch", 1)
    if batch != 1:
        return False, _("the fused CUDA step serves one text, not a batch of {batch}").format(batch=batch)
    if "other_states" in call.features:
        return False, _("the fused CUDA step keeps the state in float32")
    if {"by_rank", "mlp"} & call.features:
        return False, _("the fused CUDA step has no Mamba-3 and no MLP in a block: the step is replayed as a graph")
    if "mixed_recurrences" in call.features:
        return False, _("the fused CUDA step is for blocks that are all alike")
    if "unaligned" in call.features:
        return False, _("the weights are not contiguous at 16-byte borders")
    kinds = sorted(feature.removesuffix("_weights") for feature in call.features if feature.endswith("_weights"))
    if len(kinds) != 1 or kinds[0] not in _DTYPES:
        names = ", ".join(kinds)
        return False, _("no fused step for weights in {names}").format(names=names)
    return decode.suits(_outline(call), call.device)


def variant(call: Call) -> str:
    """All but the number of layers and the vocabulary: sizes are compiled in."""
    words = ["by channel" if "by_channel" in call.features else "by head"]
    words += [f"{name} {size}" for name, size in call.sizes if name not in ("batch", "layers", "vocabulary")]
    return ", ".join([*words, *sorted(call.features - {"by_channel", "by_head"})])


def probe(call: Call) -> list[dict[str, Any]]:
    """Sizes of the op's inputs that take the same kernel: two layers of the same sizes, and few words."""
    by_head = "by_head" in call.features
    own = ("nheads", "headdim", "ngroups") if by_head else ("d_inner", "dt_rank")
    sizes = {name: call.size(name) for name in ("d_model", "d_state", "width", *own)}
    return [{
        **sizes, "batch": 1, "by_head": by_head, "normed": "normed" in call.features, "bias": "in_proj_bias" in call.features,
        "conv_bias": "conv_bias" in call.features, "int8": "int8_weights" in call.features, "vocabulary": 512,
    }]  # fmt: skip


def decode_step(ids: Tensor, *arguments: Any, **model: Any) -> Tensor:
    """See anymamba.ops.decode_step."""
    return one_step(CudaStepper(DecodeModel(*arguments, **model)), ids)


class CudaStepper:
    """Weights are used where they lie; the states are read and changed in place."""

    name = "cuda kernel"

    def __init__(self, model: DecodeModel) -> None:
        self.why = _("the whole step is one CUDA kernel")
        self._advance, self._device = model.advance, model.embedding.device
        self._step = decode.DecodeStep(_described(model), self._device)

    def step(self, ids: Tensor) -> Tensor:
        logits = self._step(ids.to(self._device, torch.int64))
        self._advance(1)
        return logits

    def write_back(self) -> None:
        """The kernel changes the states themselves."""


decode_step.stepper = CudaStepper  # type: ignore[attr-defined]


def _described(model: DecodeModel) -> decode.Model:
    """The model as the kernel takes it."""
    sizes, floats = _numbers(model.recurrences[0], model.embedding.shape[1], model.norm_eps)
    rates = _rates([layer["A_log"] for layer in model.layers])
    layers = [_layer(layer, state, rate) for layer, state, rate in zip(model.layers, model.states, rates)]
    family = "mamba1" if isinstance(model.recurrences[0], ByChannel) else "mamba2"
    return decode.Model(family, layers, model.embedding, model.norm, decode.Linear(model.head, model.head_scale), sizes, floats)


def _numbers(recurrence: Recurrence, d_model: int, norm_eps: float) -> tuple[dict[str, int], dict[str, float]]:
    assert not isinstance(recurrence, ByRank)  # supports() turns it away
    sizes = {"D_MODEL": d_model, "D_INNER": recurrence.d_inner, "N": recurrence.d_state, "TAPS": recurrence.conv_kernel}
    floats = {"EPSILON": norm_eps}
    if isinstance(recurrence, ByHead):
        low, high = recurrence.dt_limit
        sizes |= {"HEADS": recurrence.nheads, "GROUPS": recurrence.ngroups}
        floats |= {"GATED_EPSILON": recurrence.norm_eps, "DT_LOW": low, "DT_HIGH": min(high, 3e38)}
    else:
        sizes |= {"RANK": recurrence.dt_rank, "MIXER_NORM": int(recurrence.norm_eps is not None)}
        floats |= {"MIXER_EPSILON": recurrence.norm_eps or 0.0}
    return sizes, floats


def _rates(A_logs: list[Tensor]) -> tuple[Tensor, ...]:
    """A / ln 2 of every layer, for the kernels raise 2 to dt times this."""
    return (torch.stack([A_log.detach() for A_log in A_logs]).float().exp() / -math.log(2)).unbind()


def _layer(layer: Tensors, state: Tensors, rate: Tensor) -> decode.Layer:
    def linear(name: str) -> decode.Linear:
        return decode.Linear(layer[name], layer.get(f"{name}_scale"), layer.get(f"{name}_bias"))

    matrices = [linear("in_proj"), linear("out_proj")]
    bias = layer["conv_bias"] if "conv_bias" in layer else torch.zeros_like(layer["conv_weight"][:, 0])
    constants: dict[str, Tensor | None] = {
        "norm": layer["norm"], "conv_weight": layer["conv_weight"], "conv_bias": bias, "dt_bias": layer["dt_bias"],
        "A_log2": rate, "D": layer["D"], "in_scale": matrices[0].scale, "out_scale": matrices[1].scale, "in_bias": matrices[0].bias,
        "out_bias": matrices[1].bias,
    }  # fmt: skip
    if "x_proj" not in layer:
        return decode.Layer(matrices, state["conv"][0], state["ssm"][0], {**constants, "gated_norm": layer["gated_norm"]})
    x_proj = linear("x_proj")
    constants["x_scale"] = x_proj.scale
    return decode.Layer(matrices, state["conv"][0], state["ssm"][0], constants, x_proj, layer["dt_proj"].contiguous())


def _outline(call: Call) -> decode.Model:
    """A model of the call's sizes without memory."""
    kind = next(_DTYPES[name] for name in _DTYPES if f"{name}_weights" in call.features)
    d_model, d_inner, n, width = (call.size(name) for name in ("d_model", "d_inner", "d_state", "width"))
    recurrence: Recurrence
    if "by_head" in call.features:
        groups = call.size("ngroups")
        recurrence = ByHead(call.size("nheads"), call.size("headdim"), groups, n, width, (0.0, math.inf), 1e-5)
    else:
        recurrence = ByChannel(d_inner, n, width, call.size("dt_rank"), 1e-5 if "normed" in call.features else None)

    def empty(*shape: int, dtype: torch.dtype = call.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    channels = next(rows for rows, convolved in recurrence.in_proj if convolved)
    rows = sum(rows for rows, _ in recurrence.in_proj)
    matrices = [decode.Linear(empty(rows, d_model, dtype=kind)), decode.Linear(empty(d_model, d_inner, dtype=kind))]
    by_columns = dt_proj = None
    if isinstance(recurrence, ByChannel):
        by_columns = decode.Linear(empty(recurrence.dt_rank + 2 * n, d_inner, dtype=kind))
        dt_proj = empty(d_inner, recurrence.dt_rank)
    layer = decode.Layer(matrices, empty(channels, width - 1), empty(d_inner, n), {}, by_columns, dt_proj)
    vocabulary = call.size("vocabulary")
    sizes, floats = _numbers(recurrence, d_model, 1e-5)
    family = "mamba2" if isinstance(recurrence, ByHead) else "mamba1"
    layers = [layer] * call.size("layers")
    return decode.Model(
        family, layers, empty(vocabulary, d_model), empty(d_model), decode.Linear(empty(vocabulary, d_model, dtype=kind)), sizes, floats
    )
