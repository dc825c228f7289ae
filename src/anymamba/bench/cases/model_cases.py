"""Whole models: forward, forward+backward and decode, beside the time of their matrix products alone; cost along the length."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anymamba.backends.dispatch import use_backend
from anymamba.bench import floor, model_peers, official, peers
from anymamba.bench.cases.case import FLOOR, Case, Contender, Contest, Setting, Target
from anymamba.bench.gate import Gate, compare
from anymamba.generation.engine import Reader
from anymamba.models.config import Config
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size
from anymamba.training.loop import graphed_pass

DECODE_STEPS, PROMPT = 16, 16
_GATE_TOKENS, _GATE_LAYERS, _GATE_VOCABULARY = 65, 2, 512


def configuration(family: str, size: str) -> Config:
    return config_of_size(size, family, vocab_size=50280)


def on(backend: str | None, run: Callable[[], Any]) -> Callable[[], Any]:
    """run, with every op on this backend."""
    if backend is None:
        return run

    def chosen() -> Any:
        with use_backend(backend):
            return run()

    return chosen


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """float32 as it is; anything else as a user trains in it."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def forward(model: Any, ids: Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    def run() -> None:
        with torch.no_grad(), autocast(ids.device, dtype):
            model(ids)

    return run


def training_step(model: Any, ids: Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    """Loss and gradients of every parameter: as `anymamba train` has them, which replays a CUDA graph where it can."""
    if isinstance(model, LanguageModel) and graphed_pass.supports(model)[0]:
        replayed = graphed_pass.GraphedPass(model, lambda: autocast(ids.device, dtype))
        targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], dim=1)

        def replay() -> None:
            model.zero_grad(set_to_none=True)
            if replayed(ids, targets, float(targets.numel() - len(targets))) is None:
                eager()

        eager = eager_step(model, ids, dtype)
        return replay
    return eager_step(model, ids, dtype)


def eager_step(model: Any, ids: Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    """The same, every kernel launched from Python, in fresh memory."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with autocast(ids.device, dtype):
            loss = model(ids, labels=ids).loss
        loss.backward()

    return run


def decode(model: LanguageModel, ids: Tensor) -> tuple[Callable[[], Any], Reader]:
    reader = Reader(model)
    reader.read(ids)
    state = {"ids": ids[:, -1]}

    def run() -> None:
        with torch.no_grad():
            for _ in range(DECODE_STEPS):
                state["ids"] = reader.step(state["ids"]).argmax(-1)

    return run, reader


def whole_model(config: Config, batch: int, length: int, dtype: torch.dtype, mode: str, setting: Setting) -> Contest:
    """mode: "forward", "forward+backward" or "decode"; decode reads a token a row at a time, with weights in dtype."""
    torch.manual_seed(0)
    device = setting.device
    with device:
        model = LanguageModel(config)
    stepper: Callable[[], str] | None
    ids = torch.randint(config.vocab_size, (batch, PROMPT if mode == "decode" else length), device=device)
    if mode == "decode":
        model.to(dtype).requires_grad_(False)
        run, reader = decode(model, ids)
        units, stepper = batch * DECODE_STEPS, lambda: reader.timing.stepper
        products = floor.matrix_products(model, batch, dtype, backward=False)
        alone = Contender(products, batch)
        weights = sum(p.numel() * p.element_size() for p in model.parameters()) * DECODE_STEPS
    else:
        run = (forward if mode == "forward" else training_step)(model, ids, dtype)
        units, weights, stepper = batch * length, 0, None
        alone = Contender(floor.matrix_products(model, units, dtype, backward=mode != "forward"), units)
    contenders: dict[str, Callable[[], Contender] | str] = {FLOOR: lambda: alone}
    for name in model_peers.names(config):
        contenders[name] = model_peers.missing(name) or functools.partial(_peer, name, config, ids, dtype, mode, units)
        if mode == "decode" and name == peers.MAMBAPY:
            del contenders[name]  # its scan is for many tokens
    ours = Contender(on(setting.backend, run), units)
    slow = peers.slow(device, model_peers.by_channel(config), mode == "forward+backward")
    long = frozenset({peers.TRANSFORMERS} if mode == "decode" and device.type == "cpu" else ())
    return Contest(ours, functools.partial(check, config, dtype, mode, setting), contenders, weights, stepper, slow, long)


def _peer(name: str, config: Config, ids: Tensor, dtype: torch.dtype, mode: str, units: int) -> Contender:
    torch.manual_seed(0)
    model = model_peers.make(name, config, ids.device)
    if mode == "decode":
        return Contender(model_peers.decoder(model.to(dtype), ids, DECODE_STEPS), units)
    if mode == "forward":
        return Contender(forward(model.eval(), ids, dtype), units)
    return Contender(training_step(model.train(), ids, dtype), units)


def check(config: Config, dtype: torch.dtype, mode: str, setting: Setting) -> Gate:
    """A model of two such layers and a small vocabulary, against the reference in float64."""
    torch.manual_seed(1)
    small = replace(config, num_hidden_layers=_GATE_LAYERS, vocab_size=_GATE_VOCABULARY)
    with setting.device:
        model = LanguageModel(small)
    if mode == "decode":
        model = model.to(dtype)
    ids = torch.randint(_GATE_VOCABULARY, (1, _GATE_TOKENS), device=setting.device)
    exact_model = LanguageModel(small).double()
    exact_model.load_state_dict(model.state_dict())

    exact = on("reference", functools.partial(_read, exact_model, ids.cpu(), torch.float32, mode))()
    plain = on("torch", functools.partial(_read, model, ids, dtype, mode))()
    ours = on(setting.backend, functools.partial(_decoded if mode == "decode" else _read, model, ids, dtype, mode))()
    return compare(ours, plain, exact, dtype)


def _read(model: LanguageModel, ids: Tensor, dtype: torch.dtype, mode: str) -> dict[str, Tensor]:
    """Logits, or the loss and gradients of parameters of each kind."""
    if mode != "forward+backward":
        with torch.no_grad(), contextlib.nullcontext() if mode == "decode" else autocast(ids.device, dtype):
            logits = model(ids).logits
        assert logits is not None
        return {"logits": logits}
    model.zero_grad(set_to_none=True)
    with autocast(ids.device, dtype):
        loss = model(ids, labels=ids).loss
    assert loss is not None
    loss.backward()
    kinds = ("embeddings.weight", "layers.0.mixer.A_log", "layers.0.mixer.in_proj.weight", "layers.1.mixer.conv1d.weight")
    gradients_by_name = {name: parameter.grad for name, parameter in model.named_parameters() if name.endswith(kinds)}
    return {"loss": loss.detach().view(1), **{f"gradient of {name}": g for name, g in gradients_by_name.items() if g is not None}}


def _decoded(model: LanguageModel, ids: Tensor, dtype: torch.dtype, mode: str) -> dict[str, Tensor]:
    """Logits of the same tokens, half of them read at once and the others one by one."""
    reader, half = Reader(model), ids.shape[1] // 2
    with torch.no_grad():
        logits = model(ids[:, :half]).logits
        assert logits is not None
        reader.read(ids[:, :half])
        steps = [reader.step(ids[:, t]).clone() for t in range(half, ids.shape[1])]
    return {"logits": torch.cat([logits, torch.stack(steps, dim=1).to(logits.dtype)], dim=1)}


_LONG, _SHORT = 65536, 4096


def along_the_length(config: Config, dtype: torch.dtype, setting: Setting) -> Contest:
    """One layer on 64k tokens; its peer is itself on 4k."""
    torch.manual_seed(0)
    layer = LanguageModel(replace(config, num_hidden_layers=1, vocab_size=_GATE_VOCABULARY)).to(setting.device).backbone.layers[0]

    def contender(length: int) -> Contender:
        hidden = torch.randn(1, length, config.hidden_size, device=setting.device)

        def run() -> None:
            with torch.no_grad(), autocast(setting.device, dtype):
                layer(hidden, None)

        return Contender(on(setting.backend, run), length)

    gate = functools.partial(check, config, dtype, "forward", setting)
    return Contest(contender(_LONG), gate, {SHORT: lambda: contender(_SHORT)})


SHORT = "itself on 4k tokens"


def cases() -> Iterator[Case]:
    short = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    for family in ("mamba", "mamba2"):
        config = configuration(family, "130m")
        for dtype, name in short.items():
            for mode in ("forward", "forward+backward", "decode"):
                limit = 1.35 if dtype == torch.float32 else 2.0
                targets = (Target(FLOOR, limit),) if mode == "forward+backward" else ()
                build = functools.partial(whole_model, config, 1, 512, dtype, mode)
                what = "B1" if mode == "decode" else "B1-L512"
                yield Case(f"{family}-130m/{what}-{name}/{mode}", "cpu", build, mode == "decode", targets=targets, seconds=14.0)
        build = functools.partial(along_the_length, config, torch.float32)
        length_targets = (Target(SHORT, 1.15),)
        yield Case(f"{family}-layer/L64k-D768-fp32/forward", "cpu", build, targets=length_targets)
        yield Case(f"{family}-layer/L64k-D768-fp32/forward", "cuda", build, targets=length_targets)
    yield from _cuda_cases()


def _cuda_cases() -> Iterator[Case]:
    for (family, size), rate in official.DECODE.items():
        build = functools.partial(whole_model, configuration(family, size), 1, 0, torch.bfloat16, "decode")
        target = Target(peers.OFFICIAL_H100, 1 / (1.3 if size == "2.8b" else 1.2))
        milliseconds = DECODE_STEPS / rate * 1e3
        name = f"{family}-{size}/B1-bf16/decode"
        yield Case(name, "cuda", build, size == "130m", targets=(target,), official_ms=milliseconds)
    for (family, size, batch), rate in official.TRAIN.items():
        build = functools.partial(whole_model, configuration(family, size), batch, 2048, torch.bfloat16, "forward+backward")
        target = Target(peers.OFFICIAL_H100, 1 / (1.2 if model_peers.by_channel(configuration(family, size)) else 1.5))
        milliseconds = batch * 2048 / rate * 1e3
        targets = (target,) if size == "130m" else ()
        name = f"{family}-{size}/B{batch}-L2048-bf16/forward+backward"
        yield Case(name, "cuda", build, size == "130m", targets=targets, official_ms=milliseconds)
