"""What people attach to a model's modules, as functions of a fresh model, by name; and the grid of families, attachments and readings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.mamba3 import Mamba3Config

FAMILIES = {
    "mamba": MambaConfig(61, 32, 8, 2),
    "mamba biased": MambaConfig(61, 32, 8, 2, use_bias=True, tie_word_embeddings=False),
    "falcon_mamba": FalconMambaConfig(61, 32, 8, 2),
    "mamba2": Mamba2Config(61, 32, 8, 2, num_heads=4, head_dim=16, n_groups=2, chunk_size=8),
    "mamba2 biased": Mamba2Config(61, 32, 8, 2, num_heads=4, head_dim=16, n_groups=1, chunk_size=8, use_bias=True),
    "mamba3": Mamba3Config(61, 32, 8, 2, head_dim=16, chunk_size=8),
    "mamba3 mimo": Mamba3Config(61, 32, 8, 2, head_dim=16, chunk_size=8, is_mimo=True, mimo_rank=2),
}

PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj", "lm_head")


class Wrapper(nn.Module):
    """A hand-written adapter: no ``weight``, a bias of its own."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.down, self.up = nn.Linear(inner.in_features, 2, bias=False), nn.Linear(2, inner.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.up(self.down(x))


def places(model: LanguageModel, name: str) -> list[tuple[nn.Module, str]]:
    """(owner, attribute) of every module of that name."""
    return [(module, name) for module in model.modules() if name in module._modules]


def wrap(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        setattr(owner, attribute, Wrapper(getattr(owner, attribute)))


def lora(model: LanguageModel, name: str, **options: Any) -> None:
    """PEFT refuses out_proj where it sees a configuration of Mamba; below that it does not."""
    import peft

    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=[name], init_lora_weights=False, **options)
    peft.inject_adapter_in_model(config, model.backbone.layers if name == "out_proj" else model)


def hook(model: LanguageModel, name: str) -> None:
    """Changes zeros, too, so that padding is filled again."""

    def changed(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (torch.tanh(output[0]) + 0.1, *output[1:])
        return torch.tanh(output) + 0.1

    for owner, attribute in places(model, name):
        getattr(owner, attribute).register_forward_hook(changed)


def pre_hook(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        getattr(owner, attribute).register_forward_pre_hook(lambda module, inputs: (0.7 * inputs[0] + 0.05, *inputs[1:]))


def backward_hook(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        getattr(owner, attribute).register_full_backward_hook(lambda module, into, out: tuple(0.5 * g for g in into))


def forward_replaced(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        module = getattr(owner, attribute)
        module.forward = functools.partial(lambda forward, x: 0.5 * forward(x), module.forward)


def weight_norm(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        nn.utils.parametrizations.weight_norm(getattr(owner, attribute)).parametrizations.weight.original0.data.mul_(1.1)


def older_weight_norm(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        nn.utils.weight_norm(getattr(owner, attribute)).weight_g.data.mul_(1.1)


def half_weight(model: LanguageModel, name: str) -> None:
    """A parametrisation of the owner's, with a parameter of its own."""

    class Squashed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.share = nn.Parameter(torch.tensor(0.3))

        def forward(self, weight: Tensor) -> Tensor:
            return weight + self.share * torch.tanh(weight)

    for owner, attribute in places(model, name):
        nn.utils.parametrize.register_parametrization(getattr(owner, attribute), "weight", Squashed())


def pruned(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        prune.l1_unstructured(getattr(owner, attribute), "weight", 0.4)


def subclass(model: LanguageModel, name: str) -> None:
    class Louder(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 1.3 * super().forward(input)

    for owner, attribute in places(model, name):
        getattr(owner, attribute).__class__ = Louder


def other_bias(model: LanguageModel, name: str) -> None:
    """One that the configuration does not have, or none where it has one."""
    for owner, attribute in places(model, name):
        module: Any = getattr(owner, attribute)
        size = module.weight.shape[0]
        module.bias = None if module.bias is not None else nn.Parameter(torch.linspace(-0.2, 0.3, size))


def gradient_hook(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        getattr(owner, attribute).weight.register_hook(lambda gradient: 0.5 * gradient)


def frozen(model: LanguageModel, name: str) -> None:
    for owner, attribute in places(model, name):
        getattr(owner, attribute).requires_grad_(False)


def only_trained(model: LanguageModel, name: str) -> None:
    model.requires_grad_(False)
    for owner, attribute in places(model, name):
        getattr(owner, attribute).requires_grad_(True)


KINDS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "lora": (lora, PROJECTIONS),
    "wrapper": (wrap, PROJECTIONS),
    "hook": (hook, (*PROJECTIONS, "conv1d", "norm", "norm_f", "embeddings", "B_norm")),
    "pre-hook": (pre_hook, (*PROJECTIONS, "conv1d")),
    "backward hook": (backward_hook, ("x_proj", "out_proj", "lm_head")),
    "forward replaced": (forward_replaced, ("x_proj", "out_proj", "conv1d")),
    "weight norm": (weight_norm, (*PROJECTIONS, "conv1d")),
    "older weight norm": (older_weight_norm, ("x_proj", "out_proj", "conv1d")),
    "DoRA": (functools.partial(lora, use_dora=True), PROJECTIONS),
    "LoRA with biases": (functools.partial(lora, lora_bias=True), ("in_proj", "x_proj", "lm_head")),
    "parametrised": (half_weight, (*PROJECTIONS, "conv1d", "norm")),
    "pruned": (pruned, (*PROJECTIONS, "conv1d")),
    "subclass": (subclass, PROJECTIONS),
    "other bias": (other_bias, (*PROJECTIONS, "conv1d")),
    "gradient hook": (gradient_hook, ("in_proj", "x_proj", "lm_head", "embeddings")),
    "frozen": (frozen, ("in_proj", "out_proj", "lm_head")),
    "only trained": (only_trained, ("x_proj", "out_proj", "dt_proj", "conv1d")),
}
"""kind -> (how it is attached, to which modules)."""


@functools.cache
def _modules(family: str) -> frozenset[str]:
    with torch.device("meta"):
        return frozenset(name.rpartition(".")[2] for name, _ in LanguageModel(FAMILIES[family]).named_modules())


def cases(family: str) -> list[str]:
    """Every attachment that this family has a module for: "lora x_proj"."""
    there = _modules(family)
    return ["plain", *(f"{kind}: {name}" for kind, (_, names) in KINDS.items() for name in names if name in there)]


def build(family: str, case: str, training: bool = False) -> LanguageModel:
    """The same model every time; tying is undone where an attachment would be on one end of it."""
    torch.manual_seed(5)
    model = LanguageModel(FAMILIES[family])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    kind, _, name = case.partition(": ")
    if kind != "plain":
        KINDS[kind][0](model, name)
    return model.train(training)
