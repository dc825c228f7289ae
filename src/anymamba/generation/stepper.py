"""The way to read one token: the op ``decode_step``, or the model's own step where modules have more to them than weights.

A stepper may keep the recurrent state in a layout of its own; ``write_back`` brings the cache up to date.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anymamba.backends import dispatch
from anymamba.backends.decode_model import DecodeModel, OwnStep, Stepper, Tensors
from anymamba.errors import warn_once
from anymamba.generation.quantize import stored
from anymamba.language import _
from anymamba.models import plain
from anymamba.models.cache import Cache
from anymamba.models.families import fused_steps
from anymamba.models.lm import LanguageModel
from anymamba.models.trunk.watch import readable
from anymamba.ops.decode_step import stepper

__all__ = ["Stepper", "choose_stepper", "described", "fused", "own_stepper"]


def choose_stepper(model: LanguageModel, cache: Cache, known: DecodeModel | None = None) -> Stepper:
    """The fastest that the dispatcher has for this model here; a fused step reads weights instead of calling modules, so it serves a
    model of which the weights are everything. known: the answer of ``fused``, asked just before."""
    if known is not None:
        return stepper(known, _own_step(model, cache))
    ok, reason = readable(model)
    if not ok:
        warn_once("stepper " + reason, _("generation runs module by module: {reason}").format(reason=reason))
        return own_stepper(model, cache, reason)
    kind = model.config.model_type
    if any(layer.grows for layer in cache.layers):
        return own_stepper(model, cache, _("no fused step for {kind}").format(kind=kind))
    if fused_steps(model.config) is None:
        return stepper(None, _own_step(model, cache), _("no fused step for {kind}").format(kind=kind))
    return stepper(described(model, cache), _own_step(model, cache))


def fused(model: LanguageModel, cache: Cache) -> DecodeModel | None:
    """The model as ``decode_step`` takes it, where ``choose_stepper`` gives a fused step here; else None."""
    if not readable(model)[0] or fused_steps(model.config) is None:
        return None
    known = described(model, cache)
    return None if dispatch.choose_fused(known.call(), dispatch.requested_backend()) is None else known


def own_stepper(model: LanguageModel, cache: Cache, why: str) -> Stepper:
    """The model's forward pass on one token a row, op by op."""
    return stepper(None, _own_step(model, cache), why, readable=False)


def _own_step(model: LanguageModel, cache: Cache) -> OwnStep:
    used, tokens = [layer.used for layer in cache.layers], cache.tokens

    def forward(ids: Tensor) -> Tensor:
        output = model(ids, cache=cache)
        assert output.logits is not None
        return output.logits[:, -1].float()

    def rewind() -> None:
        for layer, value in zip(cache.layers, used):
            layer.used = value
        cache.tokens = tokens

    state = [tensor for layer in cache.layers for tensor in layer.tensors().values()]
    return OwnStep(forward, state, cache.batch, model.device, cache.advance, rewind)


def described(model: LanguageModel, cache: Cache) -> DecodeModel:
    """The model and the cache as ``decode_step`` takes them. Raises RuntimeError where a module is more than its weights."""
    kinds = fused_steps(model.config)
    assert kinds is not None
    layers = [_layer(block) for block in model.backbone.layers]
    head, head_scale, _ = stored(model.lm_head)
    states = [{"conv": layer.conv, "ssm": layer.ssm} for layer in cache.layers]
    embedding, norm = stored(model.backbone.embeddings)[0], plain.read(model.backbone.norm_f).weight.detach()
    return DecodeModel(kinds, model.config.layer_norm_epsilon, embedding, layers, norm, head, head_scale, states, cache.advance)


def _layer(block: Any) -> Tensors:
    """Tensors of a block, by the names that DecodeModel has for them."""
    mixer: Any = block.mixer
    part = mixer._modules
    tensors: dict[str, Tensor | None] = {"norm": plain.read(block.norm).weight, "D": mixer.D}  # type: ignore[dict-item]
    if "conv1d" in part:
        weight, bias = plain.read(part["conv1d"])
        tensors |= {"conv_weight": weight[:, 0], "conv_bias": bias, "A_log": mixer.A_log}  # type: ignore[index]
    else:
        tensors |= {name: plain.read(part[name]).weight for name in ("B_norm", "C_norm")}  # type: ignore[misc]
        tensors |= {name: getattr(mixer, name, None) for name in ("B_bias", "C_bias", "mimo_x", "mimo_z", "mimo_o")}
    for name in ("in_proj", "out_proj", "x_proj"):
        if name in part:
            tensors[name], tensors[f"{name}_scale"], tensors[f"{name}_bias"] = stored(part[name])
    if "dt_proj" in part:
        tensors["dt_proj"], _, tensors["dt_bias"] = stored(part["dt_proj"])
    else:
        tensors["dt_bias"] = mixer.dt_bias
    if "norm" in part:
        tensors["gated_norm"] = plain.read(part["norm"]).weight  # type: ignore[assignment]
    mlp: Any = block.mlp
    if mlp is not None:
        tensors["mlp_norm"] = plain.read(block.norm2).weight  # type: ignore[assignment]
        for name in ("fc1", "fc2"):
            tensors[name], tensors[f"{name}_scale"], _ = stored(mlp._modules[name])
    return {name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}
