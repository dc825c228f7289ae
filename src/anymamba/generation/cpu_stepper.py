"""One token of each of some texts on the CPU: the whole model as a single sequence of JIT kernels.

Op by op, a small model's step is mostly the cost of calling ops, and torch's product of a matrix and a vector reads the weights
at a third of the memory's speed. Here the step is one call, bound by reading the weights once for all texts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.dispatch import requested_backend
from anymamba.generation.quantize import Stored, stored
from anymamba.language import say
from anymamba.models import plain
from anymamba.models.cache import Cache
from anymamba.models.families import fused_steps
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.fused_step import ByChannel, ByHead
from anymamba.models.trunk.state import LayerState


def supports(model: LanguageModel, cache: Cache) -> tuple[bool, str]:
    """(True, why it is used) or (False, why not)."""
    if model.device.type != "cpu":
        return False, say("the fused CPU step is for models on the CPU", "融合的 CPU 单步只用于 CPU 上的模型")
    if fused_steps(model.config) is None:
        return False, say(f"no fused step for {model.config.model_type}", f"{model.config.model_type} 没有融合单步")
    requested = requested_backend()
    if requested not in (None, "cpu"):
        return False, say(f"backend {requested!r} was asked for", f"用户指定了后端 {requested!r}")
    from anymamba.backends import cpu

    ok, reason = cpu.available()
    return (
        (True, say("the whole step is one sequence of JIT kernels", "整个单步由一串 JIT 内核完成"))
        if ok
        else (ok, reason)
    )


def make(model: LanguageModel, cache: Cache, why: str) -> CpuStepper:
    return CpuStepper(model, cache, why)


class CpuStepper:
    """Weights are used where they lie, in their dtype (float32, bfloat16, float16, int8); vectors and states are float32.

    A text's numbers are the same, bit for bit, whatever the other rows of the batch hold and however many there are.
    """

    name = "cpu sequence"

    def __init__(self, model: LanguageModel, cache: Cache, why: str) -> None:
        from anymamba.backends.cpu.sequence import Sequence

        self.why = why
        self._model, self._cache = model, cache
        self._tasks = 2 * torch.get_num_threads()
        self._texts = cache.batch
        self._hidden = torch.zeros(self._texts, model.config.hidden_size)
        self._logits = torch.zeros(self._texts, model.config.vocab_size)
        self._embeddings = stored(model.backbone.embeddings)[0]
        self._sequence = Sequence()
        self._states: list[tuple[LayerState, Tensor, Tensor]] = []
        self._new_tokens = 0
        for block, step, state in zip(model.backbone.layers, fused_steps(model.config) or (), cache.layers):
            self._add_layer(block, step, state)
        self._add_head()

    def step(self, ids: Tensor) -> Tensor:
        self._hidden.copy_(self._embeddings[ids])
        self._sequence.run()
        self._new_tokens += 1
        return self._logits

    def write_back(self) -> None:
        for state, conv, ssm in self._states:
            state.conv.copy_(conv.mT)
            state.ssm.copy_(ssm if ssm.dim() == 4 else ssm.mT)
        self._cache.advance(self._new_tokens)
        self._new_tokens = 0

    def _add_layer(self, block: Any, step: ByChannel | ByHead, state: LayerState) -> None:
        d_model, mixer, norm = self._model.config.hidden_size, block.mixer, block.norm
        conv = state.conv.float().mT.contiguous()
        by_head = isinstance(step, ByHead)
        ssm = state.ssm.clone(memory_format=torch.contiguous_format) if by_head else state.ssm.mT.contiguous()
        self._states.append((state, conv, ssm))
        projected = torch.zeros(self._texts, sum(rows for rows, _ in step.in_proj))
        y = torch.zeros(self._texts, step.d_inner)
        conv_weight, conv_bias = plain.read(mixer.conv1d)
        in_proj, out_proj = stored(mixer.in_proj), stored(mixer.out_proj)
        in_bias, out_bias = in_proj[2], out_proj[2]
        self._add(
            "project_in",
            (d_model, step.in_proj, step.conv_kernel, in_bias is not None, conv_bias is not None, norm.eps),
            in_proj,
            hidden=self._hidden, norm=_float(plain.read(norm).weight), out=projected, bias=_float(in_bias), conv_state=conv,
            conv_weight=_float(conv_weight[:, 0].T), conv_bias=_float(conv_bias),
        )  # fmt: skip
        out_norm, eps, groups = None, None, 1
        if isinstance(step, ByHead):
            self._add_mamba2_state(mixer, step, projected, ssm, y)
            out_norm, eps, groups = _float(plain.read(mixer.norm).weight), step.norm_eps, step.ngroups
        else:
            self._add_mamba1_state(mixer, step, projected, ssm, y)
        options = d_model, step.d_inner, out_bias is not None, eps, groups
        self._add("project_out", options, out_proj, x=y, hidden=self._hidden, bias=_float(out_bias), norm=out_norm)

    def _add_mamba1_state(self, mixer: Any, step: ByChannel, xz: Tensor, ssm: Tensor, y: Tensor) -> None:
        from anymamba.backends.cpu import decode_kernels
        from anymamba.backends.cpu.emit import dtype_name

        rank, states = step.dt_rank, step.d_state
        low = torch.zeros(self._texts, rank + 2 * states)
        self._add("project", (rank + 2 * states, step.d_inner, 2 * step.d_inner), stored(mixer.x_proj), x=xz, out=low)
        dt_weight, _, dt_bias = stored(mixer.dt_proj)
        weight = dt_weight.T.contiguous()
        options = (
            dtype_name(weight.dtype),
            step.d_inner,
            rank,
            states,
            step.norm_eps,
            self._texts,
            self._tasks,
        )
        A2 = -torch.exp(mixer.A_log.detach().float()).T.contiguous() / math.log(2)
        self._sequence.add(
            _program("mamba1_state", decode_kernels.mamba1_state, *options), self._tasks,
            low=low, xz=xz, y=y, dt_weight=weight, dt_bias=_float(dt_bias), D=_float(mixer.D), A2=A2, state=ssm,
        )  # fmt: skip

    def _add_mamba2_state(self, mixer: Any, step: ByHead, projected: Tensor, ssm: Tensor, y: Tensor) -> None:
        from anymamba.backends.cpu import decode_kernels

        options = step.nheads, step.headdim, step.ngroups, step.d_state, step.dt_limit
        self._sequence.add(
            _program("mamba2_state", decode_kernels.mamba2_state, *options), self._texts * step.nheads,
            projected=projected, y=y, state=ssm, A=-torch.exp(mixer.A_log.detach().float()), dt_bias=_float(mixer.dt_bias),
            D=_float(mixer.D),
        )  # fmt: skip

    def _add_head(self) -> None:
        config, norm = self._model.config, self._model.backbone.norm_f
        options = config.hidden_size, config.vocab_size, norm.eps
        weight = _float(plain.read(norm).weight)
        self._add("head", options, stored(self._model.lm_head), hidden=self._hidden, norm=weight, logits=self._logits)

    def _add(self, name: str, options: tuple[Any, ...], linear: Stored, **arguments: Any) -> None:
        """A kernel around one linear layer; ``options`` are those between its dtype and its number of texts."""
        from anymamba.backends.cpu import decode_kernels
        from anymamba.backends.cpu.emit import dtype_name

        weight, scale = linear[0].contiguous(), linear[1]
        if scale is not None:
            arguments["scale"] = scale
        program = _program(name, getattr(decode_kernels, name), dtype_name(weight.dtype), *options, self._texts, self._tasks)
        self._sequence.add(program, self._tasks, weight=weight, **arguments)


_programs: dict[tuple[Any, ...], Any] = {}


def _program(name: str, build: Any, *options: Any) -> Any:
    """The same kernel serves every layer: compiled once."""
    from anymamba.backends.cpu.compile import Program

    key = name, *options
    if key not in _programs:
        _programs[key] = Program(f"decode_{name}", build, *options)
    return _programs[key]


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().contiguous()
