"""decode_step on processors: the whole model as a single sequence of JIT kernels.

Op by op, a small model's step is mostly the cost of calling ops, and torch's product of a matrix and a vector reads the weights
at a third of the memory's speed. Here the step is one call, bound by reading the weights once for all texts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.call import Call
from anymamba.backends.cpu.decode import decode_kernels, decode_mamba3_kernels
from anymamba.backends.cpu.decode.sequence import Sequence
from anymamba.backends.cpu.jit import target
from anymamba.backends.cpu.jit.compile import Program
from anymamba.backends.cpu.jit.emit import dtype_name
from anymamba.backends.decode_model import ByChannel, ByHead, ByRank, DecodeModel, Recurrence, Tensors, one_step
from anymamba.language import _
from anymamba.reference import blocks


def supports(call: Call) -> tuple[bool, str]:
    """Weights in float32, bfloat16, float16, int8 and, where the processor converts float16, in blocks."""
    kinds = {f"{name}_weights" for name in ("float32", "bfloat16", "float16", "int8", *(blocks.BYTES if target.host().f16 else ()))}
    other = sorted(feature for feature in call.features if feature.endswith("_weights") and feature not in kinds)
    if other:
        names = ", ".join(feature.removesuffix("_weights") for feature in other)
        return False, _("no fused step for weights in {names}").format(names=names)
    return True, _("the whole step is one sequence of JIT kernels")


def variant(call: Call) -> str:
    """Which kernels there are, and of how many texts one: a group of sums in registers, and what is left over."""
    words = sorted(call.features & {"by_channel", "by_head", "normed", "in_proj_bias", "out_proj_bias", "conv_bias", *_OF_RANK})
    words += [f"rank {call.size('rank')}"] if "by_rank" in call.features else []
    words += sorted(feature for feature in call.features if feature.endswith("_weights"))
    return ", ".join([*words, f"{_texts(call)} texts"])


_OF_RANK = "by_rank", "projected", "gated_norm", "softplus", "heavy_tail", "mlp"


def _texts(call: Call) -> int:
    """As many as make the same parts: 1 to 4, or a group and a rest of 0 to 3."""
    batch = call.size("batch", 1)
    return batch if batch <= decode_kernels.TEXTS else decode_kernels.TEXTS + batch % decode_kernels.TEXTS


def probe(call: Call) -> list[dict[str, Any]]:
    """Sizes of the op's inputs that take the same kernels."""
    sizes = {
        "batch": _texts(call), "normed": "normed" in call.features, "bias": "in_proj_bias" in call.features,
        "conv_bias": "conv_bias" in call.features, "int8": "int8_weights" in call.features,
        "packed": next((name for name in blocks.BYTES if f"{name}_weights" in call.features), ""),
    }  # fmt: skip
    if "by_rank" in call.features:
        softplus, gated = "softplus" in call.features, "gated_norm" in call.features
        sizes |= {"projected": "projected" in call.features, "softplus": softplus, "gated_norm": gated, "mlp": "mlp" in call.features}
        return [{**sizes, "rank": call.size("rank"), "d_state": 32}]
    return [{**sizes, "by_head": kind == "by_head"} for kind in sorted(call.features & {"by_channel", "by_head"})]


def decode_step(ids: Tensor, *arguments: Any, **model: Any) -> Tensor:
    """See anymamba.ops.decode_step."""
    return one_step(CpuStepper(DecodeModel(*arguments, **model)), ids)


class CpuStepper:
    """Weights are used where they lie, in their dtype (float32, bfloat16, float16, int8); vectors and states are float32.

    A text's numbers are the same, bit for bit, whatever the other rows of the batch hold and however many there are.
    """

    name = "cpu sequence"

    def __init__(self, model: DecodeModel) -> None:
        self.why = _("the whole step is one sequence of JIT kernels")
        self._model = model
        self._tasks = 2 * torch.get_num_threads()
        self._texts = model.batch
        self._hidden = torch.zeros(self._texts, model.norm.shape[0])
        self._logits = torch.zeros(self._texts, model.head.shape[0])
        self._sequence = Sequence()
        self._states: list[tuple[Tensor, Tensor]] = []
        self._new_tokens = 0
        for recurrence, layer, state in zip(model.recurrences, model.layers, model.states):
            self._add_layer(recurrence, layer, state)
        self._add_head()

    def step(self, ids: Tensor) -> Tensor:
        rows = self._model.embedding[ids]
        self._hidden.copy_(blocks.unpacked(rows, self._hidden.shape[1]) if rows.dtype == torch.uint8 else rows)
        self._sequence.run()
        self._new_tokens += 1
        return self._logits

    def write_back(self) -> None:
        for state, own in self._states:
            state.copy_(own)
        self._model.advance(self._new_tokens)
        self._new_tokens = 0

    def _add_layer(self, recurrence: Recurrence, layer: Tensors, state: Tensors) -> None:
        projected = torch.zeros(self._texts, sum(rows for rows, _ in recurrence.in_proj))
        y = torch.zeros(self._texts, recurrence.d_inner)
        bias = _float(layer.get("out_proj_bias"))
        if isinstance(recurrence, ByRank):
            self._project_in(recurrence.in_proj, layer, "in_proj", "norm", projected)
            self._add_state_by_rank(recurrence, layer, projected, state, y)
            self._project_out(layer, y, bias, None, None, 1)
        else:
            # channels side by side
            conv = state["conv"].float().mT.contiguous()
            self._project_in(recurrence.in_proj, layer, "in_proj", "norm", projected, recurrence.conv_kernel, conv)
            self._states.append((state["conv"], conv.mT))
            if isinstance(recurrence, ByHead):
                ssm = state["ssm"].float().clone(memory_format=torch.contiguous_format)
                self._states.append((state["ssm"], ssm))
                self._add_state_by_head(recurrence, layer, projected, ssm, y)
                self._project_out(layer, y, bias, _float(layer["gated_norm"]), recurrence.norm_eps, recurrence.ngroups)
            else:
                ssm = state["ssm"].float().mT.contiguous()
                self._states.append((state["ssm"], ssm.mT))
                self._add_state_by_channel(recurrence, layer, projected, ssm, y)
                self._project_out(layer, y, bias, None, None, 1)
        if "fc1" in layer:
            self._add_mlp(layer)

    def _project_in(
        self,
        parts: tuple[tuple[int, bool], ...],
        layer: Tensors,
        linear: str,
        norm: str,
        out: Tensor,
        taps: int = 1,
        conv: Tensor | None = None,
    ) -> None:
        options = self._hidden.shape[1], parts, taps, f"{linear}_bias" in layer, "conv_bias" in layer, self._model.norm_eps
        weight = layer.get("conv_weight")
        self._add(
            "project_in", options, layer, linear, self._hidden.shape[1],
            hidden=self._hidden, norm=_float(layer[norm]), out=out, bias=_float(layer.get(f"{linear}_bias")), conv_state=conv,
            conv_weight=None if weight is None else _float(weight.T), conv_bias=_float(layer.get("conv_bias")),
        )  # fmt: skip

    def _project_out(
        self, layer: Tensors, y: Tensor, bias: Tensor | None, norm: Tensor | None, eps: float | None, groups: int
    ) -> None:
        options = self._hidden.shape[1], y.shape[1], bias is not None, eps, groups
        self._add("project_out", options, layer, "out_proj", y.shape[1], x=y, hidden=self._hidden, bias=bias, norm=norm)

    def _add_mlp(self, layer: Tensors) -> None:
        rows = layer["fc1"].shape[0]
        inside = torch.zeros(self._texts, rows)
        self._project_in(((rows, False),), layer, "fc1", "mlp_norm", inside)
        self._add("gated_out", (self._hidden.shape[1], rows // 2), layer, "fc2", rows // 2, x=inside, hidden=self._hidden)

    def _add_state_by_rank(self, recurrence: ByRank, layer: Tensors, row: Tensor, state: Tensors, y: Tensor) -> None:
        memory, last = (state[name].float().clone(memory_format=torch.contiguous_format) for name in ("ssm", "conv"))
        self._states += [(state["ssm"], memory), (state["conv"], last)]
        sizes = recurrence.nheads, recurrence.headdim, recurrence.ngroups, recurrence.d_state, recurrence.rank, recurrence.num_angles
        decay = recurrence.a_activation, recurrence.a_floor, recurrence.norm_eps
        options = *sizes, recurrence.projected, *decay, recurrence.gated_norm
        given = {"up": "mimo_x", "gate": "mimo_z", "down": "mimo_o"}
        given |= {name: name for name in ("dt_bias", "D", "B_norm", "C_norm", "B_bias", "C_bias", "gated_norm")}
        self._sequence.add(
            _program("mamba3_state", decode_mamba3_kernels.mamba3_state, *options), self._texts * recurrence.nheads,
            row=row, y=y, memory=memory, last=last, **{name: _float(layer.get(tensor)) for name, tensor in given.items()},
        )  # fmt: skip

    def _add_state_by_channel(self, recurrence: ByChannel, layer: Tensors, xz: Tensor, ssm: Tensor, y: Tensor) -> None:
        rank, states, d_inner = recurrence.dt_rank, recurrence.d_state, recurrence.d_inner
        low = torch.zeros(self._texts, rank + 2 * states)
        self._add("project", (rank + 2 * states, d_inner, 2 * d_inner), layer, "x_proj", d_inner, x=xz, out=low)
        weight = layer["dt_proj"].T.contiguous()
        options = dtype_name(weight.dtype), d_inner, rank, states, recurrence.norm_eps, self._texts, self._tasks
        A2 = -torch.exp(layer["A_log"].float()).T.contiguous() / math.log(2)
        self._sequence.add(
            _program("mamba1_state", decode_kernels.mamba1_state, *options), self._tasks,
            low=low, xz=xz, y=y, dt_weight=weight, dt_bias=_float(layer["dt_bias"]), D=_float(layer["D"]), A2=A2, state=ssm,
        )  # fmt: skip

    def _add_state_by_head(self, recurrence: ByHead, layer: Tensors, projected: Tensor, ssm: Tensor, y: Tensor) -> None:
        heads = recurrence.nheads
        options = heads, recurrence.headdim, recurrence.ngroups, recurrence.d_state, recurrence.dt_limit
        self._sequence.add(
            _program("mamba2_state", decode_kernels.mamba2_state, *options), self._texts * heads,
            projected=projected, y=y, state=ssm, A=-torch.exp(layer["A_log"].float()), dt_bias=_float(layer["dt_bias"]),
            D=_float(layer["D"]),
        )  # fmt: skip

    def _add_head(self) -> None:
        model = self._model
        options = model.norm.shape[0], model.head.shape[0], model.norm_eps
        matrix = {"head": model.head} | ({} if model.head_scale is None else {"head_scale": model.head_scale})
        depth = model.norm.shape[0]
        self._add("head", options, matrix, "head", depth, hidden=self._hidden, norm=_float(model.norm), logits=self._logits)

    def _add(
        self, kernel: str, options: tuple[Any, ...], tensors: Tensors, linear: str, depth: int, **arguments: Any
    ) -> None:
        """A kernel around one linear layer of that depth; ``options`` are those between its weights' kind and its number of texts."""
        weight = tensors[linear].contiguous()
        if f"{linear}_scale" in tensors:
            arguments["scale"] = tensors[f"{linear}_scale"]
        kind = blocks.name_of(weight, depth)
        kernels = decode_mamba3_kernels if kernel == "gated_out" else decode_kernels
        program = _program(kernel, getattr(kernels, kernel), kind, *options, self._texts, self._tasks)
        self._sequence.add(program, self._tasks, weight=weight, **arguments)


decode_step.stepper = CpuStepper  # type: ignore[attr-defined]

_programs: dict[tuple[Any, ...], Any] = {}


def _program(name: str, build: Any, *options: Any) -> Any:
    """The same kernel serves every layer: compiled once."""
    key = name, *options
    if key not in _programs:
        _programs[key] = Program(f"decode_{name}", build, *options)
    return _programs[key]


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().contiguous()
