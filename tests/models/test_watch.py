"""A fused step serves a model only while its weights are everything, notices what comes later, and says why where it does not serve."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import attached
from torch import Tensor, nn

from anymamba import errors
from anymamba.errors import AnymambaError
from anymamba.generation.engine import Reader
from anymamba.generation.quantize import quantize_int8
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.trunk.watch import Watch, readable

IDS = torch.randint(0, 61, (1, 9), generator=torch.Generator().manual_seed(1))


def stepping(model: LanguageModel) -> Reader:
    reader = Reader(model)
    reader.read(IDS)
    reader.step(torch.tensor([3]))
    return reader


def assert_step_is_right(model: LanguageModel, reader: Reader, cache: Any) -> None:
    """The reader's next step against the model's own from the same state."""
    got = reader.step(torch.tensor([4])).clone()
    with torch.no_grad():
        wanted = model(torch.tensor([[4]]), cache=cache).logits[:, -1]
    assert (got - wanted).norm() <= 1e-5 * wanted.norm()


def state(reader: Reader) -> Any:
    reader.leave_stepper()
    cache = reader.cache.clone()
    reader.step(torch.tensor([3]))
    with torch.no_grad():
        reader.model(torch.tensor([[3]]), cache=cache)
    return cache


def later_hook(model: LanguageModel) -> None:
    model.lm_head.register_forward_hook(lambda module, inputs, output: -output)


def later_hook_for_all_modules(model: LanguageModel) -> Any:
    return nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)


def later_wrapper(model: LanguageModel) -> None:
    attached.wrap(model, "out_proj")


def later_lora(model: LanguageModel) -> None:
    attached.lora(model, "in_proj")


def later_weights(model: LanguageModel) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)


def later_vector(model: LanguageModel) -> None:
    nn.utils.vector_to_parameters(0.9 * nn.utils.parameters_to_vector(model.parameters()), model.parameters())


def later_forward(model: LanguageModel) -> None:
    attached.forward_replaced(model, "out_proj")


def later_module_for_one(model: LanguageModel) -> None:
    old = model.backbone.layers[1].mixer.in_proj
    model.backbone.layers[1].mixer.in_proj = nn.Linear(old.in_features, old.out_features, bias=False)


@pytest.mark.parametrize(
    "change",
    [
        later_hook, later_hook_for_all_modules, later_wrapper, later_lora, later_weights, later_vector, later_forward,
        later_module_for_one,
    ],
)
@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_what_is_attached_in_the_middle_of_a_text_counts_from_the_next_token(family: str, change: Any) -> None:
    model = attached.build(family, "plain")
    reader = stepping(model)
    assert reader.timing.stepper == "cpu sequence"
    cache = state(reader)
    handle = change(model)
    try:
        assert_step_is_right(model, reader, cache)
    finally:
        if handle is not None:
            handle.remove()


def test_lora_stays_on_the_fast_path_and_its_switches_count() -> None:
    import peft

    model = attached.build("mamba", "plain")
    options = {"r": 4, "init_lora_weights": False, "lora_dropout": 0.5, "target_modules": ["in_proj", "x_proj", "lm_head"]}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
    wrapped.add_adapter("other", peft.LoraConfig(**options))
    wrapped.eval()
    assert readable(model) == (True, "")
    reader = stepping(model)

    def right(stepper: str = "cpu sequence") -> None:
        cache = state(reader)
        assert_step_is_right(model, reader, cache)
        assert reader.timing.stepper == stepper

    right()
    wrapped.set_adapter("other")
    right()
    wrapped.base_model.set_adapter(["default", "other"])
    right()
    with wrapped.disable_adapter():
        right()
    right()
    wrapped.merge_adapter()
    right()
    wrapped.unmerge_adapter()
    right()
    wrapped.train()
    assert not readable(model)[0] and "dropout" in readable(model)[1]
    wrapped.eval()
    right()


def test_dropout_of_lora_acts_in_training() -> None:
    import peft

    model = attached.build("mamba", "plain")
    options = {"r": 4, "init_lora_weights": False, "lora_dropout": 0.5, "target_modules": ["x_proj", "lm_head"]}
    peft.inject_adapter_in_model(peft.LoraConfig(**options), model).train()
    losses = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        losses.append(model(IDS, labels=IDS).loss.item())
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("kind", ["dora", "modules_to_save", "lora_bias", "ia3"])
def test_other_adapters_are_right_or_run_themselves(kind: str) -> None:
    import peft

    model = attached.build("mamba", "plain")
    if kind == "ia3":
        config = peft.IA3Config(target_modules=["in_proj", "x_proj"], feedforward_modules=["x_proj"], init_ia3_weights=False)
    else:
        options = {"dora": {"use_dora": True}, "modules_to_save": {"modules_to_save": ["lm_head"]}, "lora_bias": {"lora_bias": True}}
        config = peft.LoraConfig(target_modules=["in_proj", "x_proj"], init_lora_weights=False, **options[kind])
    wrapped = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    reader = stepping(model)
    assert_step_is_right(model, reader, state(reader))
    loss = model(IDS, labels=IDS)
    logits = model(IDS).logits
    wanted = nn.functional.cross_entropy(logits[0, :-1], IDS[0, 1:])
    assert abs(loss.loss - wanted) < 1e-5
    loss.loss.backward()
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)


def test_reasons_name_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_said", set())
    model = attached.build("mamba2", "wrapper: out_proj")
    with pytest.warns(UserWarning, match="module by module"):
        reader = stepping(model)
    assert reader.timing.stepper == "model"
    assert "backbone.layers.0.mixer.out_proj" in reader.timing.why and "Wrapper" in reader.timing.why
    with pytest.raises(AnymambaError, match=r"backbone.layers.0.mixer.out_proj"):
        quantize_int8(model)


def test_int8_takes_adapters_in() -> None:
    model, other = (attached.build("mamba", "lora: in_proj") for _ in range(2))
    exact = other(IDS).logits
    whole = quantize_int8(attached.build("mamba", "plain"))(IDS).logits
    got = quantize_int8(model)(IDS).logits
    assert (got - exact).norm() < 0.05 * exact.norm() < (whole - exact).norm()
    loss = model(IDS, labels=IDS).loss
    assert abs(loss - nn.functional.cross_entropy(got[0, :-1], IDS[0, 1:])) < 1e-4


class Narrow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., :5]


class Shorter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


@pytest.mark.parametrize("family", ["mamba", "mamba2", "mamba3", "falcon_mamba"])
@pytest.mark.parametrize("wrong", [Narrow(), Shorter()])
def test_wrappers_that_change_shapes_are_named(family: str, wrong: nn.Module) -> None:
    model = attached.build(family, "plain")
    model.backbone.layers[1].mixer.out_proj = wrong
    with pytest.raises(AnymambaError, match=f"layer 1.*out_proj.*{type(wrong).__name__}"):
        model(IDS)


def test_adapters_on_another_device_are_named() -> None:
    model = attached.build("mamba", "lora: x_proj")
    model.backbone.layers[1].mixer.x_proj.lora_A.to("meta")
    with pytest.raises(AnymambaError, match="layer 1: x_proj .*meta"):
        model(IDS)


def test_masks_that_cannot_be_are_named() -> None:
    model = attached.build("mamba", "plain")
    for mask in (torch.ones(3, 9), torch.ones(1, 4), torch.ones(1, 1, 9, 9)):
        with pytest.raises(AnymambaError, match="attention_mask"):
            model(IDS, attention_mask=mask)
    with pytest.raises(AnymambaError, match="seq_idx"):
        model(IDS, attention_mask=torch.tensor([[1, 1, 1, 2, 2, 2, 3, 3, 3]]))


def test_the_watch_is_cheap_for_24_layers() -> None:
    model = LanguageModel(MambaConfig(61, 32, 8, 24))
    watch = Watch(model)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        assert not watch.changed()
        times.append(time.perf_counter() - started)
    assert sorted(times)[5] < 300e-6  # a step of 130m takes 10 ms or more on a processor


def test_a_model_with_adapters_is_saved_merged_or_not_at_all(tmp_path: Path) -> None:
    import peft

    model = attached.build("mamba", "plain")
    config = peft.LoraConfig(r=4, target_modules=["in_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        model.lm_head.modules_to_save["default"].weight.add_(0.1)
    with pytest.raises(AnymambaError, match="in_proj.base_layer"):
        hub.save(model, tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
    logits = model(IDS).logits
    hub.save(wrapped.merge_and_unload(), tmp_path / "merged")
    assert (hub.load(tmp_path / "merged")(IDS).logits - logits).norm() < 1e-5 * logits.norm()  # the head is no longer tied
