"""What people attach to the layers of a model, and the ways in which they run it: the drop-in against the same model's slow path.

As a program: ``python -m tests.dropin.attachments FAMILIES quick|pairs|all`` prints one JSON document, case -> largest relative error of
loss, logits and every gradient. The slow path of a transformers model is its own code, found behind the functions that the drop-in serves;
that of mamba_ssm's classes is the same class with its fused path switched off and the exact reference as the backend.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tests.dropin.tiny_transformers import CONFIGS, build
from tests.pairwise import Row, covering

CLASSES = ("Mamba", "Mamba2", "Mamba2Simple")
PADDINGS = ("none", "left", "right")
RUNS = ("eager", "bf16", "checkpointing", "compile")


class LoRA(nn.Module):
    """As adapters are built by hand, and by PEFT: the base layer inside, its weight shown as its own."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.A = nn.Linear(base.in_features, 3, bias=False)
        self.B = nn.Linear(3, base.out_features, bias=False)
        for layer in (self.A, self.B):
            nn.init.normal_(layer.weight, std=0.3)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.B(self.A(x.to(self.A.weight.dtype)))


def _peft(base: nn.Linear) -> nn.Module:
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    layer = Linear(base, "default", config=LoraConfig(r=3, lora_alpha=6, init_lora_weights=False), r=3, lora_alpha=6)
    return layer.requires_grad_(True)


def _on(mixer: nn.Module, name: str, kind: str) -> None:
    layer: Any = getattr(mixer, name)
    if kind == "lora":
        setattr(mixer, name, LoRA(layer))
    elif kind == "peft":
        setattr(mixer, name, _peft(layer))
    elif kind == "hook":
        layer.register_forward_hook(lambda module, inputs, output: output * 1.5)
    elif kind == "pre-hook":
        layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5, *inputs[1:]))
    elif kind == "weight norm":
        nn.utils.parametrizations.weight_norm(layer)
    elif kind == "old weight norm":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nn.utils.weight_norm(layer)
    elif kind == "added bias":
        layer.bias = nn.Parameter(torch.linspace(-0.3, 0.4, layer.weight.shape[0]))
    elif kind == "frozen":
        layer.requires_grad_(False)


def mixers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, "in_proj") and hasattr(module, "conv1d")]


KINDS = ("lora", "hook", "pre-hook", "weight norm", "old weight norm", "frozen", "added bias", "peft")


def attachments(family: str) -> list[str]:
    """Kind and module: "lora on x_proj"."""
    first = family in ("mamba", "falcon_mamba", "jamba", "Mamba")
    projections = ("in_proj", "x_proj", "out_proj") if first else ("in_proj", "out_proj")
    return ["plain", *(f"{kind} on {name}" for name, kind in itertools.product(projections, KINDS))]


def attach(model: nn.Module, what: str) -> None:
    if what != "plain":
        kind, name = what.split(" on ")
        torch.manual_seed(5)
        for mixer in mixers(model):
            _on(mixer, name, kind)


def largest(got: dict[str, Tensor], want: dict[str, Tensor]) -> tuple[float, str]:
    """The largest error relative to the largest magnitude of the tensor it is in; a missing gradient counts as infinite."""
    if got.keys() != want.keys():
        return float("inf"), f"missing: {sorted(want.keys() ^ got.keys())}"
    worst = (0.0, "")
    scale = max((value.abs().max().item() for name, value in want.items() if name.startswith("gradient")), default=0.0)
    for name, value in want.items():
        size = value.abs().max().item()
        if name.startswith("gradient"):  # of a parameter that hardly matters, rounding is all there is
            size = max(size, 1e-3 * scale)
        error = (got[name] - value).abs().max().item() / max(size, 1e-30)
        worst = max(worst, (error if error == error else float("inf"), name))
    return worst


class Transformers:
    """A family of transformers."""

    def __init__(self, family: str) -> None:
        self.family, self.model = family, build(family)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name.endswith("conv1d.bias"):  # zero at first, and then nothing of padding would leak
                    parameter.normal_(std=0.7, generator=torch.Generator().manual_seed(4))

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """The modeling file's own functions in place of those that the drop-in serves."""
        modeling = sys.modules[type(self.model).__module__]
        served = {name: value for name, value in vars(modeling).items() if hasattr(value, "__wrapped__") and callable(value)}
        own = {name: value.__wrapped__ for name, value in served.items() if value.__wrapped__.__module__ == modeling.__name__}
        own = {name: value for name, value in own.items() if not isinstance(value, type)}
        kept = {name: vars(modeling)[name] for name in own}
        vars(modeling).update(own)
        try:
            yield
        finally:
            vars(modeling).update(kept)

    def inputs(self, padding: str) -> tuple[Tensor, Tensor | None]:
        ids = torch.randint(3, 64, (2, 13), generator=torch.Generator().manual_seed(1))
        if padding == "none":
            return ids, None
        mask = torch.ones_like(ids)
        mask[0, : 5 if padding == "left" else None] = 0
        if padding == "right":
            mask = torch.ones_like(ids)
            mask[0, -5:] = 0
        return ids.masked_fill(mask == 0, 0), mask

    def train(self, model: Any, padding: str, run: str) -> dict[str, Tensor]:
        ids, mask = self.inputs(padding)
        labels = ids if mask is None else ids.masked_fill(mask == 0, -100)
        model.train()
        model.zero_grad(set_to_none=True)
        if run == "checkpointing":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        called = torch.compile(model, backend="aot_eager") if run == "compile" else model
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=run == "bf16"):
            out = called(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
        out.loss.backward()
        shown = out.logits if mask is None else out.logits[mask.bool()]
        gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        return {"loss": out.loss.detach(), "logits": shown.detach().float(), **gradients}

    @torch.no_grad()
    def read(self, model: Any, padding: str, how: str) -> dict[str, Tensor]:
        """Logits of the real tokens: the whole text, or two pieces, or a piece and single tokens, with a cache."""
        ids, mask = self.inputs(padding)
        model.eval()
        if how == "whole":
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            return {"logits": logits if mask is None else logits[mask.bool()]}
        cuts = [0, 8, ids.shape[1]] if how == "pieces" else [0, 8, *range(9, ids.shape[1] + 1)]
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config)
        name = "cache_params" if self.family in ("mamba", "mamba2", "falcon_mamba") else "past_key_values"
        parts = []
        for begin, end in itertools.pairwise(cuts):
            attended = None if mask is None else mask[:, begin:end] if name == "cache_params" else mask[:, :end]
            more = {name: cache, "use_cache": True, "attention_mask": attended}
            if name != "cache_params":
                more["position_ids"] = torch.arange(begin, end).expand(ids.shape[0], -1)
            parts.append(model(input_ids=ids[:, begin:end], **more).logits)
        logits = torch.cat(parts, 1)
        return {"logits": logits if mask is None else logits[mask.bool()]}


class Classes:
    """A class of mamba_ssm, between two linear layers."""

    def __init__(self, name: str) -> None:
        import mamba_ssm
        from mamba_ssm.modules.mamba2_simple import Mamba2Simple

        self.family = name
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"d_state": 8} if name == "Mamba" else {"d_state": 8, "headdim": 8, "chunk_size": 8}
        made = Mamba2Simple if name == "Mamba2Simple" else getattr(mamba_ssm, name)
        more = {} if name == "Mamba2Simple" else {"layer_idx": 0}
        self.model = nn.Sequential(nn.Linear(16, 32), made(32, **sizes, **more), nn.Linear(32, 16))

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        import anymamba

        with anymamba.use_backend("reference"):
            yield

    def train(self, model: Any, padding: str, run: str) -> dict[str, Tensor]:
        x = torch.randn(2, 13, 16, generator=torch.Generator().manual_seed(1))
        model.train()
        model.zero_grad(set_to_none=True)
        called = torch.compile(model, backend="aot_eager") if run == "compile" else model
        with torch.autocast("cpu", torch.bfloat16, enabled=run == "bf16"):
            if run == "checkpointing":
                y = torch.utils.checkpoint.checkpoint(called, x, use_reentrant=False)
            else:
                y = called(x)
            loss = (y.float() ** 2).mean()
        loss.backward()
        gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        return {"loss": loss.detach(), "logits": y.detach().float(), **gradients}

    @torch.no_grad()
    def read(self, model: Any, padding: str, how: str) -> dict[str, Tensor]:
        from mamba_ssm.utils.generation import InferenceParams

        x = torch.randn(2, 13, 16, generator=torch.Generator().manual_seed(1))
        model.eval()
        if how == "whole" or self.family == "Mamba2Simple":
            return {"logits": model(x)}
        params = InferenceParams(max_seqlen=13, max_batch_size=2)
        hidden = model[0](x)
        parts = [model[1](hidden[:, :8], inference_params=params)]
        for at in range(8, 13):
            params.seqlen_offset = at
            parts.append(model[1](hidden[:, at : at + 1], inference_params=params))
        return {"logits": model[2](torch.cat(parts, 1))}


def switched_off(model: nn.Module) -> None:
    """mamba_ssm's classes without their fused path."""
    for mixer in mixers(model):
        if hasattr(mixer, "use_fast_path"):
            mixer.use_fast_path = False  # type: ignore[assignment]
        if hasattr(mixer, "use_mem_eff_path"):
            mixer.use_mem_eff_path = False  # type: ignore[assignment]


def possible(row: Row) -> bool:
    if row["family"] in CLASSES and row["padding"] != "none":
        return False
    return row["what"] in attachments(row["family"]) and not (row["how"] == "train compile" and row["padding"] == "right")


def rows(family: str, extent: str) -> list[Row]:
    """Of the grid: a few, or every pair of the values of two axes in some family's, or all."""
    hows = [*(f"train {run}" for run in RUNS), *(f"read {how}" for how in ("whole", "pieces", "steps"))]
    if extent == "quick":
        padding = "none" if family in CLASSES else "left"
        few = [what for what in attachments(family) if not any(word in what for word in ("old", "in_proj", "frozen"))]
        cases = [("train eager", padding), ("read steps", "none")]
        return [{"family": family, "what": what, "how": how, "padding": padding} for what in few for how, padding in cases]
    families = [family] if extent == "all" else [*CONFIGS, *CLASSES]
    axes = {"family": families, "what": [*dict.fromkeys(itertools.chain(*map(attachments, families)))], "how": hows, "padding": PADDINGS}
    if extent == "all":
        return [row for row in (dict(zip(axes, values)) for values in itertools.product(*axes.values())) if possible(row)]
    return [row for row in covering(axes, possible) if row["family"] == family]


def errors(family: str, extent: str) -> dict[str, tuple[float, str]]:
    subject: Any = Classes(family) if family in CLASSES else Transformers(family)
    found: dict[str, tuple[float, str]] = {}
    for row in rows(family, extent):
        stage, how = row["how"].split()
        fast, plain = copy.deepcopy(subject.model), copy.deepcopy(subject.model)
        attach(fast, row["what"]), attach(plain, row["what"])
        switched_off(plain)
        torch._dynamo.reset()
        with subject.slow():
            # the graph of a slow path is no slower path than itself
            want = getattr(subject, stage)(plain, row["padding"], "eager" if how == "compile" else how)
        got = getattr(subject, stage)(fast, row["padding"], how)
        error = largest(got, want)
        if how == "bf16":  # two roundings differ by more than either: what counts is whether ours is further from float32 than theirs
            with subject.slow():
                exact = subject.train(plain, row["padding"], "eager")
            ours, theirs = largest(got, exact), largest(want, exact)
            error = max(0.0, ours[0] - 2 * theirs[0]), ours[1]
        found[", ".join(row.values())] = error
    return found


def main(families: str, extent: str = "all") -> None:
    import anymamba

    anymamba.dropin()
    torch.set_num_threads(1)
    found: dict[str, tuple[float, str]] = {}
    for family in families.split(","):
        found |= errors(family, extent)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
