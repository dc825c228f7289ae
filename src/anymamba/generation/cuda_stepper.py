"""One token of one text on an NVIDIA card: the whole model as a single launch of a kernel that NVRTC compiles."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anymamba.backends.dispatch import requested_backend
from anymamba.generation.quantize import stored
from anymamba.language import say
from anymamba.models import plain
from anymamba.models.cache import Cache
from anymamba.models.families import fused_steps
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.fused_step import ByHead
from anymamba.models.trunk.state import LayerState

if TYPE_CHECKING:  # it imports triton, which a machine without a GPU need not have
    from anymamba.backends.cuda.decode import Layer, Linear, Model

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of the first step's logits against the model's own, relative, by the dtype in which the model rounds what lies between its ops."""


def supports(model: LanguageModel, cache: Cache) -> tuple[bool, str]:
    """(True, why it is used) or (False, why not)."""
    if model.device.type != "cuda" or torch.version.hip is not None:
        return False, say("the fused CUDA step is for NVIDIA cards", "融合的 CUDA 单步只用于 NVIDIA 显卡")
    if cache.batch != 1:
        return False, say(
            f"the fused CUDA step serves one text, not a batch of {cache.batch}",
            f"融合的 CUDA 单步只支持单个文本，不支持批大小 {cache.batch}",
        )
    if any(layer.ssm.dtype != torch.float32 or not layer.ssm.is_contiguous() for layer in cache.layers):
        return False, say("the fused CUDA step keeps the state in float32", "融合的 CUDA 单步以 float32 保存状态")
    steps = fused_steps(model.config)
    if steps is None:
        return False, say(f"no fused step for {model.config.model_type}", f"{model.config.model_type} 没有融合单步")
    if len(set(steps)) > 1:
        return False, say("the fused CUDA step is for layers all alike", "融合的 CUDA 单步要求各层相同")
    requested = requested_backend()
    if requested not in (None, "triton"):
        return False, say(f"backend {requested!r} was asked for", f"用户指定了后端 {requested!r}")
    if importlib.util.find_spec("triton") is None:
        return False, say("triton is not installed", "未安装 triton")
    from anymamba.backends.cuda import decode

    return decode.suits(describe(model, cache), model.device)


def make(model: LanguageModel, cache: Cache, why: str) -> CudaStepper:
    """Raises RuntimeError when the first step is not what the model's own step gives."""
    _check(model)
    return CudaStepper(model, cache, why)


class CudaStepper:
    """Weights are used where they lie; the cache's tensors are read and changed in place."""

    name = "cuda kernel"

    def __init__(self, model: LanguageModel, cache: Cache, why: str) -> None:
        from anymamba.backends.cuda.decode import Step

        self.why = why
        self._cache, self._device = cache, model.device
        self._step = Step(describe(model, cache), model.device)

    def step(self, ids: Tensor) -> Tensor:
        logits = self._step(ids.to(self._device, torch.int64))
        self._cache.advance(1)
        return logits

    def write_back(self) -> None:
        """The kernel changes the cache's own tensors."""


_faults: dict[tuple[str, ...], str] = {}
"""Device and kind of model whose kernel was checked -> what was wrong with it, or ""."""


def _check(model: LanguageModel) -> None:
    """Two tokens by the kernel and by the model, once for a kind of model on a device."""
    config, dtype = model.config, model.backbone.embeddings.weight.dtype
    kind = str(model.device), repr(config), str(dtype), type(model.lm_head).__name__
    if kind not in _faults:
        ours, theirs = model.make_cache(), model.make_cache()
        for layer, other in zip(ours.layers, theirs.layers):
            layer.ssm.normal_(std=0.1)
            other.ssm.copy_(layer.ssm)
        stepper = CudaStepper(model, ours, "")
        worst = 0.0
        for token in (1, 0):
            ids = torch.full((1,), token % config.vocab_size, dtype=torch.long, device=model.device)
            wanted = model(ids[:, None], cache=theirs).logits
            assert wanted is not None
            logits, wanted = stepper.step(ids).double(), wanted[:, -1].double()
            worst = max(worst, float((logits - wanted).norm() / wanted.norm()))
        most = TOLERANCE[torch.float32 if dtype == torch.float32 else dtype]
        wrong = say(f"the fused step is off by {worst:.1e}, allowed {most:.0e}", f"融合单步误差为 {worst:.1e}，允许 {most:.0e}")
        _faults[kind] = "" if worst <= most else wrong
    if _faults[kind]:
        raise RuntimeError(_faults[kind])


def describe(model: LanguageModel, cache: Cache) -> Model:
    """The model and the cache as the kernel takes them."""
    from anymamba.backends.cuda.decode import Model

    config, steps = model.config, fused_steps(model.config) or []
    first = steps[0]  # the kernel is compiled for one kind of layer
    sizes = {"D_MODEL": config.hidden_size, "D_INNER": first.d_inner, "N": first.d_state, "TAPS": first.conv_kernel}
    floats = {"EPSILON": config.layer_norm_epsilon}
    if isinstance(first, ByHead):
        sizes |= {"HEADS": first.nheads, "GROUPS": first.ngroups}
        low, high = first.dt_limit
        floats |= {"GATED_EPSILON": first.norm_eps, "DT_LOW": low, "DT_HIGH": min(high, 3e38)}
    else:
        sizes |= {"RANK": first.dt_rank, "MIXER_NORM": int(first.norm_eps is not None)}
        floats |= {"MIXER_EPSILON": first.norm_eps or 0.0}
    second = isinstance(first, ByHead)
    layers = [
        (_second if second else _first)(block, state) for block, state in zip(model.backbone.layers, cache.layers)
    ]
    embedding, last_norm = stored(model.backbone.embeddings)[0], plain.read(model.backbone.norm_f).weight
    return Model("mamba2" if second else "mamba1", layers, embedding, last_norm, _linear(model.lm_head), sizes, floats)


def _first(block: Any, state: LayerState) -> Layer:
    from anymamba.backends.cuda.decode import Layer

    mixer = block.mixer
    matrices, x_proj = [_linear(mixer.in_proj), _linear(mixer.out_proj)], _linear(mixer.x_proj)
    constants = _shared_constants(block, *matrices)
    dt_weight, _, dt_bias = stored(mixer.dt_proj)
    constants |= {"dt_bias": dt_bias, "A_log2": _log2_decay(mixer.A_log), "D": mixer.D, "x_scale": x_proj.scale}
    return Layer(matrices, state.conv[0], state.ssm[0], constants, x_proj, dt_weight.contiguous())


def _second(block: Any, state: LayerState) -> Layer:
    from anymamba.backends.cuda.decode import Layer

    mixer = block.mixer
    matrices = [_linear(mixer.in_proj), _linear(mixer.out_proj)]
    constants = _shared_constants(block, *matrices)
    constants |= {
        "dt_bias": mixer.dt_bias, "A_log2": _log2_decay(mixer.A_log), "D": mixer.D, "gated_norm": plain.read(mixer.norm).weight,
    }  # fmt: skip
    return Layer(matrices, state.conv[0], state.ssm[0], constants)


def _shared_constants(block: Any, in_proj: Linear, out_proj: Linear) -> dict[str, Tensor | None]:
    weight, bias = plain.read(block.mixer.conv1d)
    if bias is None:
        bias = torch.zeros_like(weight[:, 0, 0])
    return {
        "norm": plain.read(block.norm).weight, "conv_weight": weight, "conv_bias": bias,
        "in_scale": in_proj.scale, "out_scale": out_proj.scale, "in_bias": in_proj.bias, "out_bias": out_proj.bias,
    }  # fmt: skip


def _linear(linear: Any) -> Linear:
    from anymamba.backends.cuda.decode import Linear

    return Linear(*stored(linear))


def _log2_decay(A_log: Tensor) -> Tensor:
    """A = -exp(A_log), times log2(e): the kernels raise 2 to dt times this."""
    return -torch.exp(A_log.detach().float()) / math.log(2)
