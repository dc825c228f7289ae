"""LoRA beside the layers of every family: gradients are those of the dense weights in float64, PEFT reads and writes the same folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import attached
from torch import Tensor, nn
from torch.func import functional_call

from anymamba.backends import matrix_units
from anymamba.errors import AnymambaError
from anymamba.generation.engine import Reader
from anymamba.generation.quantize import quantize
from anymamba.models import hub, lora
from anymamba.models.hub import adapter_files
from anymamba.models.lm import LanguageModel
from anymamba.models.lora import LoraOptions
from anymamba.models.merging import merge
from anymamba.models.trunk.stored_linear import unpacked_state

IDS = torch.randint(0, 61, (2, 14), generator=torch.Generator().manual_seed(0))
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 9, [0] * 14])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def adapted(family: str, name: str = "default", **options: Any) -> LanguageModel:
    """With adapters that do something: B is not zero."""
    model = attached.build(family, "plain")
    torch.manual_seed(1)
    lora.attach(model, LoraOptions(**{"rank": 3, "targets": "all", **options}), name)
    randomised(model, name)
    return model


@torch.no_grad()
def randomised(model: LanguageModel, name: str) -> None:
    for adapter in lora.adapters_of(model, name).values():
        adapter.B.normal_(std=0.1)
        if adapter.magnitude is not None:
            adapter.magnitude.mul_(torch.rand_like(adapter.magnitude) + 0.5)


def dense(
    model: LanguageModel, family: str, plain: LanguageModel | None = None, **arguments: Any
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, logits and the gradients of A, B and magnitude, from a plain model in float64 whose weights are W + s B A."""
    plain = plain or attached.build(family, "plain").double()
    leaves: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for path, adapter in lora.adapters_of(model, "default").items():
        parts = {part: getattr(adapter, part).detach().double().requires_grad_() for part in ("A", "B", "magnitude")
                 if getattr(adapter, part) is not None}  # fmt: skip
        leaves.update({f"{path}.{part}": leaf for part, leaf in parts.items()})
        weight = plain.get_submodule(path).weight.detach() + adapter.scaling * parts["B"] @ parts["A"]
        if "magnitude" in parts:  # the norm passes no gradient: DoRA, section 4.3
            weight = weight * (parts["magnitude"] / weight.detach().norm(dim=1))[:, None]
        weights[f"{path}.weight"] = weight
    more = {"targets": IDS.roll(-1, 1), "return_logits": True, **arguments}
    output = functional_call(plain, weights, (IDS,), more, tie_weights=False)
    output.loss.backward()
    return output.loss.detach(), output.logits.detach(), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def compare(
    family: str, model: LanguageModel, most: float = 1e-5, autocast: bool = False, plain: LanguageModel | None = None, **arguments: Any
) -> None:
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(IDS, targets=IDS.roll(-1, 1), **arguments)
    output.loss.backward()
    loss, __, wanted = dense(model, family, plain, **arguments)
    assert abs(output.loss.detach() - loss) <= most * loss
    adapters = lora.adapters_of(model, "default")
    assert len(wanted) >= 2 * len(adapters)
    whole = max(gradient.norm() for gradient in wanted.values())
    for name, gradient in wanted.items():
        path, _, part = name.rpartition(".")
        got = getattr(adapters[path], part).grad
        assert (got - gradient).norm() <= most * (gradient.norm() + 1e-2 * whole), name
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if ".adapters." not in name)


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "mamba2", "mamba3"])
def test_gradients_are_those_of_the_dense_weights(family: str) -> None:
    compare(family, adapted(family))


@pytest.mark.parametrize("family", ["mamba biased", "mamba2 biased", "mamba3 mimo"])
def test_gradients_with_documents_biases_and_recomputation(family: str) -> None:
    model = adapted(family)
    model.backbone.gradient_checkpointing = True
    compare(family, model, seq_idx=DOCUMENTS)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_gradients_of_dora_of_bfloat16_and_of_the_head(family: str) -> None:
    compare(family, adapted(family, dora=True))
    compare(family, adapted(family), most=0.06, autocast=True)
    compare(family, adapted(family, targets="in_proj,lm_head"))


def test_frozen_layers_in_bfloat16_change_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where products are computed in 16 bits."""
    monkeypatch.setattr(matrix_units, "widens", lambda dtype: False)
    losses = []
    for narrow in (False, True):
        model = adapted("mamba")
        if narrow:
            lora.narrow_frozen_layers(model, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(model(IDS, targets=IDS.roll(-1, 1)).loss)
    assert losses[0] == losses[1]


def test_full_rank_is_full_training_of_the_same_weights() -> None:
    """With A the identity, the change is B itself: AdamW moves it as it moves the weight."""
    curves = []
    for low_rank in (True, False):
        model = attached.build("mamba", "plain", training=True)
        model.requires_grad_(False)
        names = lora.chosen_layers(model.config, "in_proj,x_proj,out_proj")
        if low_rank:
            for path in names:
                layer = lora.at(model, path)
                layer.adapters["default"] = lora.Adapter(torch.eye(layer.in_features), torch.zeros(layer.weight.shape), 1.0)
                layer.adapters["default"].A.requires_grad_(False)
            lora.activate(model, ["default"])
        else:
            for path in names:
                model.get_submodule(path).weight.requires_grad_(True)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)
        curves.append([])
        for _ in range(12):
            loss = model(IDS, targets=IDS.roll(-1, 1)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            curves[-1].append(float(loss.detach()))
    assert curves[0][-1] < 0.8 * curves[0][0]
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("dora", [False, True])
def test_text_and_merged_weights_are_those_of_the_model_with_adapters(family: str, dora: bool, tmp_path: Path) -> None:
    model = adapted(family, dora=dora).eval()
    __, wanted, __ = dense(model, family)
    reader = Reader(model)
    steps = [reader.read(IDS[:1, :4]), *(reader.step(IDS[:1, at]).clone() for at in range(4, 14))]
    assert (torch.stack(steps, 1) - wanted[:1, 3:]).norm() <= 1e-5 * wanted[:1, 3:].norm(), reader.timing.stepper
    rounding = merge(model)
    assert rounding.dtype == "float32" and rounding.layers == len(lora.chosen_layers(model.config, "all")) and rounding.lost < 1e-4
    assert not lora.adapter_names(model)
    hub.save(model, tmp_path / "merged")
    assert torch.equal(hub.load(tmp_path / "merged")(IDS).logits, model(IDS).logits)
    assert (model(IDS).logits - wanted).norm() <= 1e-5 * wanted.norm()


def test_rounding_of_a_merge_in_16_bits_is_told() -> None:
    model = adapted("mamba").to(torch.bfloat16)
    rounding = merge(model)
    assert rounding.dtype == "bfloat16" and 0.001 < rounding.lost < rounding.worst < 1 and rounding.worst_layer.endswith("_proj")


@pytest.mark.parametrize("width", ["int8", "int4"])
@pytest.mark.parametrize("dora", [False, True])
def test_adapters_over_rounded_weights(width: str, dora: bool) -> None:
    """QLoRA: gradients are those beside the weights that the rounded layers stand for; text goes module by module."""
    model = quantize(attached.build("mamba", "plain"), width)
    plain = attached.build("mamba", "plain").double()
    plain.lm_head.weight = nn.Parameter(plain.lm_head.weight.detach().clone())
    plain.load_state_dict(unpacked_state(model))
    torch.manual_seed(1)
    lora.attach(model, LoraOptions(rank=3, targets="all", dora=dora))
    randomised(model, "default")
    compare("mamba", model, most=2e-5, plain=plain)
    with pytest.raises(AnymambaError, match="not quantised"):
        merge(model)
    model.eval()
    reader, whole = Reader(model), model(IDS[:1]).logits
    steps = [reader.read(IDS[:1, :4]), *(reader.step(IDS[:1, at]).clone() for at in range(4, 14))]
    most = 1e-5 if width == "int8" else 2e-4  # in four bits, a row alone is multiplied in another way than many
    assert (torch.stack(steps, 1) - whole[:, 3:]).norm() <= most * whole.norm()


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon_mamba"])
@pytest.mark.parametrize("dora", [False, True])
def test_peft_reads_ours_and_we_read_theirs(family: str, dora: bool, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = adapted(family, targets="", dora=dora).eval()
    hub.save(attached.build(family, "plain"), tmp_path / "base")
    (tmp_path / "ours").mkdir()
    adapter_files.write(model, tmp_path / "ours", str(tmp_path / "base"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tuned = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    wanted = model(IDS).logits
    torch.testing.assert_close(tuned(IDS).logits, wanted, rtol=1e-4, atol=1e-5)

    config = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["in_proj"], rank_pattern={"layers.1.mixer.in_proj": 4}, use_dora=dora,
                             alpha_pattern={"layers.0.mixer.in_proj": 3}, use_rslora=True, init_lora_weights=False)  # fmt: skip
    tuned = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config).eval()
    tuned.save_pretrained(tmp_path / "theirs")
    again = hub.load(tmp_path / "base")
    adapter_files.add(again, adapter_files.read(tmp_path / "theirs", again.config), "theirs")
    lora.activate(again, ["theirs"])
    torch.testing.assert_close(again(IDS).logits, tuned(IDS).logits, rtol=1e-4, atol=1e-5)


def test_several_adapters_by_name() -> None:
    model = attached.build("mamba", "plain").eval()
    plain = model(IDS).logits
    for name in ("one", "two"):
        lora.attach(model, LoraOptions(rank=2), name)
        randomised(model, name)
    results = {}
    for names in (("one",), ("two",), ("one", "two"), ()):
        lora.activate(model, list(names))
        results[names] = model(IDS).logits
    assert torch.equal(results[()], plain)
    assert len({float(logits.detach().sum()) for logits in results.values()}) == 4
    with pytest.raises(AnymambaError, match="three.*\n.*one, two"):
        lora.activate(model, ["three"])


def test_targets_that_match_nothing_list_what_there_is() -> None:
    config = attached.FAMILIES["mamba"]
    assert lora.leaves(lora.chosen_layers(config, "all")) == ["in_proj", "x_proj", "dt_proj", "out_proj"]
    assert lora.leaves(lora.chosen_layers(config, "")) == ["in_proj", "x_proj"]
    assert lora.chosen_layers(config, "layers.1.mixer.x_proj,lm_head") == ["backbone.layers.1.mixer.x_proj", "lm_head"]
    for target in ("q_proj", "attention", "mlp", "proj"):
        with pytest.raises(AnymambaError, match="in_proj, x_proj, dt_proj, out_proj, lm_head"):
            lora.chosen_layers(config, f"in_proj,{target}")
    for options in (LoraOptions(rank=0), LoraOptions(rank=-3), LoraOptions(dropout=1.0)):
        with pytest.raises(AnymambaError):
            lora.check(config, options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of the Mamba-1."""
    (tmp_path / "adapter").mkdir()
    adapter_files.write(adapted("mamba"), tmp_path / "adapter", "BASE")
    return tmp_path / "adapter"


def change(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "values",
    [{"peft_type": "LOHA"}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True}, {"init_lora_weights": "pissa_niter_4"},
     {"trainable_token_indices": [1]}, {"layer_replication": [[0, 1]]}, {"a_later_option": 3}],
)  # fmt: skip
def test_options_of_peft_that_are_not_supported_are_named(folder: Path, values: dict[str, Any]) -> None:
    change(folder, **values)
    with pytest.raises(AnymambaError, match=f"{next(iter(values))}.*{next(iter(values.values()))!r}".replace("[", r"\[")):
        adapter_files.read(folder, attached.FAMILIES["mamba"])


def test_an_adapter_of_another_base_is_refused_before_the_weights_are_read(folder: Path) -> None:
    with pytest.raises(AnymambaError, match="hidden_size: 32, 48(.|\n)*BASE"):
        adapter_files.read(folder, type(attached.FAMILIES["mamba"])(61, 48, 8, 2))
    (folder / "base_config.json").unlink()  # other programs write none
    adapter_files.read(folder, attached.FAMILIES["mamba"])
    with pytest.raises(AnymambaError, match=r"dt_proj: A \(3, 2\), B \(64, 3\) for a weight of \(96, 3\)"):
        adapter_files.read(folder, type(attached.FAMILIES["mamba"])(61, 48, 8, 2))
    with pytest.raises(AnymambaError, match="no linear layer backbone.layers.0.mixer.dt_proj"):
        adapter_files.read(folder, attached.FAMILIES["mamba2"])


def test_missing_and_broken_files(folder: Path, tmp_path: Path) -> None:
    config = attached.FAMILIES["mamba"]
    with pytest.raises(AnymambaError, match="there is no folder"):
        adapter_files.read(tmp_path / "nothing", config)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(AnymambaError, match=r"adapter_model.safetensors is damaged"):
        adapter_files.read(folder, config)
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(AnymambaError, match="no adapter_model.safetensors(.|\n)*pickle"):
        adapter_files.read(folder, config)
    with pytest.raises(AnymambaError, match="has adapters|it has "):
        hub.save(adapted("mamba"), tmp_path / "out")
    assert isinstance(attached.build("mamba", "plain").lm_head, nn.Linear)
