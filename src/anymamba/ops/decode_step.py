"""One token of some texts through a whole model of Mamba-1, Mamba-2 or Mamba-3: what generation repeats for every token."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anymamba.backends import REGISTRY, dispatch
from anymamba.backends.decode_model import ByChannel, ByHead, ByRank, DecodeModel, OwnStep, Recurrence, Stepper, Tensors
from anymamba.backends.opspec import Arguments, Build, OpSpec, Random, register
from anymamba.errors import warn_once
from anymamba.language import _
from anymamba.ops.calls import checks
from anymamba.reference import blocks
from anymamba.reference import decode_step as exact


def decode_step(
    ids: Tensor,
    recurrences: Sequence[Recurrence],
    norm_eps: float,
    embedding: Tensor,
    layers: Sequence[Tensors],
    norm: Tensor,
    head: Tensor,
    head_scale: Tensor | None,
    states: Sequence[Tensors],
    *,
    backend: str | None = None,
) -> Tensor:
    """hidden += mixer(rms_norm(hidden)) of every block, then rms_norm and the head; the mixers as in Mamba, algorithm 2, Mamba-2,
    section 7, and Mamba-3, section 3, one token at a time; in a block with an MLP hidden += mlp(rms_norm(hidden)) after it.

    ids: (batch,), tokens. embedding: (vocabulary, d_model), or in blocks as well; norm: (d_model,); head: (vocabulary, d_model), with
    head_scale (vocabulary,) where it is int8, or uint8 in blocks (``anymamba.reference.blocks``), like the layers' matrices.
    recurrences, layers, states: of every
    block, see ``anymamba.backends.decode_model.DecodeModel``; all the texts' states are changed in place. Returns logits (batch,
    vocabulary), float32. Without gradients.

    Raises ArgumentError (shapes), BackendError. For many tokens ``stepper`` prepares the model once.
    """
    op = "decode_step"
    scaled = head if head.is_floating_point() else None
    table = embedding if embedding.is_floating_point() else norm  # a table in blocks is bytes
    checks.tensors(op, {"embedding": table, "norm": norm}, {"head": scaled, "head_scale": head_scale}, {"ids": ids})
    checks.on_device(op, "head", head, embedding.device, "embedding")
    if embedding.is_floating_point():
        checks.shape(op, "norm", norm, "(d_model,)", (embedding.shape[1],))
    if head.dtype != torch.uint8:
        checks.shape(op, "head", head, "(vocabulary, d_model)", (-1, norm.shape[0]))
    for name, values in (("layers", layers), ("states", states)):
        checks.value(op, f"len({name})", len(values), len(values) == len(recurrences), f"{len(recurrences)} (recurrences)")
    checks.shape(op, "ids", ids, "(batch,)", (states[0]["ssm"].shape[0],))
    checks.indices_below(op, "ids", ids, embedding.shape[0], "vocabulary", padding=False)
    arguments = recurrences, norm_eps, embedding, layers, norm, head, head_scale, states
    if torch.compiler.is_compiling():
        return exact.decode_step(ids, *arguments)  # of torch's own operations, for the graph
    function = dispatch.choose(DecodeModel(*arguments).call(), backend).function
    with torch.no_grad():
        return function(ids, *arguments)


def stepper(model: DecodeModel | None, own: OwnStep, why: str = "", *, readable: bool = True) -> Stepper:
    """What reads many tokens of one model, by the backend that the dispatcher chooses; an explicit choice that has no fused step is kept by
    the ops of the model's own step.

    model: None where no fused step knows its recurrence, and why. own: the model's own step. readable: whether its tensors are all that
    there is to it; else only its own step is right, module by module. What goes wrong in a faster stepper is said once; the next serves.
    """
    module = dispatch.module_of(REGISTRY["torch"], "decode_step")
    requested = dispatch.requested_backend()
    reasons = [why] if why else []
    while model is not None and readable:
        call = model.call()
        choice = dispatch.choose_fused(call, requested)
        made = None if choice is None else getattr(choice.function, "stepper", None)
        if choice is None or made is None:
            reasons += _reasons(call, requested)
            break
        try:
            return made(model)
        except Exception as error:  # noqa: BLE001 - a JIT that fails here must not stop the text
            reason = f"{type(error).__name__}: {error}"
            dispatch.reject(choice.backend, call, reason)
            _say_slower(reason)
    result, reason = module.stepper_of(own, readable, "; ".join(reasons))
    if reason:
        _say_slower(reason)
    return result


def _reasons(call: Any, requested: str | None) -> list[str]:
    """Why no backend serves the call with a fused step; of one that failed, said as well."""
    reasons = []
    for name in ("cpu", "cuda"):
        entry = REGISTRY[name]
        if not dispatch.meant_for(entry, call.device):
            continue
        if requested not in (None, name):
            reasons.append(_("backend {requested!r} was asked for").format(requested=requested))
            continue
        ok, reason = dispatch.verdict(entry, call)
        if not ok:
            reasons.append(reason)
            if dispatch.implements(entry, call.op) and dispatch.module_of(entry, call.op).supports(call)[0]:
                _say_slower(reason)
    return reasons


def _say_slower(reason: str) -> None:
    warn_once("stepper" + reason, _("generation takes the slower path: {reason}").format(reason=reason))


def build(
    batch: int = 2, d_model: int = 64, d_inner: int = 128, d_state: int = 16, dt_rank: int = 4, width: int = 4, layers: int = 2,
    vocabulary: int = 72, by_head: bool = False, nheads: int = 4, headdim: int = 32, ngroups: int = 1, normed: bool = False,
    bias: bool = False, conv_bias: bool = True, int8: bool = False, packed: str = "", dt_limit: tuple[float, float] = (0.0, float("inf")),
    rank: int = 0, projected: bool = False, softplus: bool = False, gated_norm: bool = False, mlp: bool = False,
) -> Build:  # fmt: skip
    """by_head: Mamba-2, of nheads, headdim and ngroups; rank: Mamba-3, of these too, projected or not (MIMO, SISO), its decay by softplus
    or the heavy tail; else Mamba-1, of d_inner and dt_rank; normed: with norms on dt, B and C. mlp: blocks have one.
    int8, packed: the matrices are int8 rows, or in that format of blocks."""
    recurrence: Recurrence
    if rank:
        activation = "softplus" if softplus else "heavy_tail"
        recurrence = ByRank(nheads, headdim, ngroups, d_state, rank, max(d_state // 4, 1), projected, activation, 1e-4, 1e-5, gated_norm)
    elif by_head:
        recurrence = ByHead(nheads, headdim, ngroups, d_state, width, dt_limit, 1e-5)
    else:
        recurrence = ByChannel(d_inner, d_state, width, dt_rank, 1e-6 if normed else None)
    inner, channels = recurrence.d_inner, sum(rows for rows, convolved in recurrence.in_proj if convolved)
    memory: dict[str, tuple[int, ...]] = {"conv": (batch, channels, width - 1), "ssm": (batch, inner, d_state)}
    if isinstance(recurrence, ByRank):
        memory = {"conv": (batch, nheads, rank * d_state + headdim), "ssm": (batch, nheads, headdim * d_state + recurrence.num_angles)}
    elif by_head:
        memory["ssm"] = (batch, nheads, headdim, d_state)

    def matrix(random: Random, name: str, rows: int, columns: int) -> dict[str, Tensor]:
        values = random(rows, columns) / columns**0.5
        if packed:
            return {name: blocks.packed(values, packed)}
        if not int8:
            return {name: values}
        scale = values.abs().amax(dim=1) / 127
        return {name: (values / scale[:, None]).round().to(torch.int8), f"{name}_scale": scale}

    def of_ranks(random: Random) -> Tensors:
        tensors = {f"{name}_norm": 1 + 0.1 * random(d_state) for name in "BC"} | {"D": random(nheads), "dt_bias": random(nheads) - 2}
        tensors |= {f"{name}_bias": random(nheads, rank, d_state) for name in "BC"}
        if projected:
            tensors |= {f"mimo_{name}": random(nheads, rank, headdim) for name in "xzo"}
        return tensors | ({"gated_norm": 1 + 0.1 * random(inner)} if gated_norm else {})

    def layer(random: Random) -> Tensors:
        tensors = {
            "norm": 1 + 0.1 * random(d_model),
            **matrix(random, "in_proj", sum(rows for rows, _ in recurrence.in_proj), d_model), **matrix(random, "out_proj", d_model, inner),
        }  # fmt: skip
        if bias:
            tensors |= {"in_proj_bias": random(sum(rows for rows, _ in recurrence.in_proj)) / 10, "out_proj_bias": random(d_model) / 10}
        if mlp:
            both = matrix(random, "fc1", 4 * d_model, d_model), matrix(random, "fc2", d_model, 2 * d_model)
            tensors |= {"mlp_norm": 1 + 0.1 * random(d_model), **both[0], **both[1]}
        if rank:
            return {**tensors, **of_ranks(random)}
        tensors["conv_weight"] = random(channels, width) / 2
        if conv_bias:
            tensors["conv_bias"] = random(channels) / 10
        if by_head:
            by_head_alone = {name: random(nheads) for name in ("A_log", "D")}
            return {**tensors, **by_head_alone, "dt_bias": random(nheads) - 2, "gated_norm": 1 + 0.1 * random(inner)}
        return {
            **tensors, **matrix(random, "x_proj", dt_rank + 2 * d_state, inner), "dt_proj": random(inner, dt_rank) / dt_rank**0.5,
            "dt_bias": random(inner) - 2, "A_log": random(inner, d_state), "D": random(inner),
        }  # fmt: skip

    def inputs(random: Random) -> Arguments:
        embedding = random(vocabulary, d_model)
        head = matrix(random, "head", vocabulary, d_model)
        return {
            "embedding": embedding, "ids": torch.arange(3, 3 + batch) % vocabulary, "recurrences": (recurrence,) * layers, "norm_eps": 1e-5,
            "layers": [layer(random) for _ in range(layers)], "norm": 1 + 0.1 * random(d_model), "head": head["head"],
            "head_scale": head.get("head_scale"),
            "states": [{name: random(*shape) for name, shape in memory.items()} for _ in range(layers)],
        }  # fmt: skip

    return inputs


_heads = functools.partial(build, by_head=True, d_state=32)
_ranks = functools.partial(build, rank=1, d_state=32)

SPEC = register(
    OpSpec(
        decode_step,
        build,
        float32=("ssm", "in_proj_scale", "out_proj_scale", "x_proj_scale", "fc1_scale", "fc2_scale", "head_scale"),
        inplace=("states",),
        composed_of=("rms_norm_fn", "causal_conv1d_update", "selective_state_update"),
        published=(
            {"batch": 1}, {"batch": 1, "int8": True}, {"batch": 1, "by_head": True, "d_state": 128, "headdim": 64},
            {"batch": 1, "normed": True, "conv_bias": True}, *({"batch": 1, "packed": name} for name in blocks.BYTES),
            {"batch": 1, "rank": 1, "d_state": 128, "headdim": 64, "mlp": True},
        ),
        forward_cases={
            "Mamba-1": build(),
            "Mamba-1, one text, odd sizes": build(1, 38, 76, 5, 3, 3, bias=True),
            "FalconMamba": build(normed=True),
            "Mamba-1, int8": build(5, int8=True),
            "Mamba-2": _heads(),
            "Mamba-2, groups, limited dt": _heads(6, ngroups=2, dt_limit=(0.01, 0.5), bias=True),
            "Mamba-2, int8": _heads(1, int8=True),
            "Mamba-1, q8_0": build(3, packed="q8_0"),
            "Mamba-2, q8_0": _heads(5, packed="q8_0"),
            "Mamba-3": _ranks(mlp=True),
            "Mamba-3, one text, odd sizes, softplus": _ranks(1, 38, d_state=10, nheads=3, headdim=5, softplus=True, gated_norm=True),
            "Mamba-3, MIMO, groups": _ranks(3, rank=4, ngroups=2, projected=True),
            "Mamba-3, MIMO, norm, int8": _ranks(5, rank=3, projected=True, gated_norm=True, mlp=True, int8=True),
            "Mamba-3, q8_0": _ranks(2, mlp=True, packed="q8_0"),
        },
    )
)
