"""The contract of families: what one is, which there are, and that one which breaks a rule is named with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from tests.models import throwaway_family as leaky
from torch import nn

from anymamba.errors import AnymambaError
from anymamba.models import FAMILIES, families, hub
from anymamba.models.config import Config
from anymamba.models.family import Family, LayerKind, LinearLayer
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.sizes import config_of_size
from anymamba.models.trunk.fused_step import ByChannel, ByHead, ByRank
from anymamba.models.trunk.mixer import Mixer

every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture
def registered() -> Iterator[Callable[[Family[Any]], Family[Any]]]:
    """``families.register``, undone after the test."""
    before = dict(families._checked)

    def register(family: Family[Any]) -> Family[Any]:
        families.register(family)
        return family

    yield register
    for name in families._checked.keys() - before.keys():
        families.forget(name)


@every_family
def test_every_size_can_be_begun_and_its_layers_are_all_stated(name: str) -> None:
    family = families.family(name)
    assert family.name == name and family is families.family_of(family.config())
    for size in family.sizes:
        with torch.device("meta"):
            model = LanguageModel(config_of_size(size, name))  # checks the contract of its blocks
        assert type(model.config) is family.config


@every_family
def test_fused_steps_are_described_by_the_family(name: str) -> None:
    steps = families.fused_steps(config_of_size("tiny", name))
    wanted = {"mamba": ByChannel, "falcon_mamba": ByChannel, "mamba2": ByHead, "mamba3": ByRank}.get(name)
    assert steps is None if wanted is None else {type(step) for step in steps or ()} == {wanted}


def test_rows_of_in_proj_are_those_that_the_mixer_has() -> None:
    for config in (config_of_size("tiny", "mamba"), Mamba2Config(64, 32, 8, 1, num_heads=4, head_dim=16, n_groups=2)):
        model, steps = LanguageModel(config), families.fused_steps(config)
        mixer: Any = model.backbone.layers[0].mixer
        assert steps and sum(rows for rows, _ in steps[0].in_proj) == mixer.in_proj.out_features
        assert sum(rows for rows, convolved in steps[0].in_proj if convolved) == mixer.conv1d.out_channels
    model, steps = LanguageModel(config_of_size("tiny", "mamba3")), families.fused_steps(config_of_size("tiny", "mamba3"))
    mixer = model.backbone.layers[0].mixer
    assert steps and isinstance(steps[0], ByRank) and list(steps[0].widths) == mixer.widths


@every_family
def test_residual_layers_are_scaled_down_with_depth(name: str) -> None:
    model = LanguageModel(config_of_size("tiny", name, 264))
    kinds = families.family(name).layers(model.config)
    block = model.backbone.layers[0]
    branches = [[layer.name for layer in kind.linear_layers if layer.residual] for kind in kinds]
    for layer in branches[0]:
        linear: Any = block.get_submodule(layer)
        bound = linear.in_features**-0.5 / sum(map(len, branches)) ** 0.5
        assert 0.9 * bound < linear.weight.abs().max() <= 1.0001 * bound


def test_lora_targets() -> None:
    """As PEFT takes them: every one of them gets an adapter that learns."""
    peft = pytest.importorskip("peft")
    targets = {name: families.family(name).lora_targets(config_of_size("tiny", name)) for name in FAMILIES}
    assert targets["mamba"] == targets["falcon_mamba"] == ["in_proj", "x_proj"] and targets["mamba2"] == ["in_proj"]
    assert targets["mamba3"] == ["in_proj", "out_proj", "fc1", "fc2"]
    for name, layers in targets.items():
        model = LanguageModel(config_of_size("tiny", name, 64))
        places = [part for part, module in model.backbone.named_modules() if isinstance(module, torch.nn.Linear)]
        wanted = [part for part in places if part.rpartition(".")[2] in layers]
        tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=layers))
        ids = torch.randint(64, (1, 5))
        tuned(ids, labels=ids).loss.backward()
        adapters = {part: parameter for part, parameter in tuned.named_parameters() if "lora_B" in part}
        assert len(adapters) == len(wanted) >= len(layers)
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapters.values())


def test_unknown_names_list_what_exists(tmp_path: Any) -> None:
    for ask in (lambda: families.family("jumbo"), lambda: config_of_size("tiny", "jumbo")):
        with pytest.raises(AnymambaError, match="'jumbo'") as caught:
            ask()
        assert caught.value.exit_code == 2 and all(name in str(caught.value) for name in FAMILIES)
    with pytest.raises(AnymambaError, match="'7b' of mamba2") as caught:
        config_of_size("7b", "mamba2")
    assert "tiny, small, 130m" in str(caught.value)
    (tmp_path / "config.json").write_text('{"model_type": "jumbo"}')
    with pytest.raises(AnymambaError, match=r"config.json: model_type 'jumbo'") as caught:
        hub.load_config(tmp_path)
    assert "falcon_mamba" in str(caught.value)
    (tmp_path / "config.json").write_text('{"d_model": 8, "n_layer": 1, "ssm_cfg": {"layer": "Mamba9"}}')
    with pytest.raises(AnymambaError, match=r"ssm_cfg.layer = 'Mamba9'") as caught:
        hub.load_config(tmp_path)
    assert "Mamba1, Mamba2, Mamba3" in str(caught.value)


def test_a_registered_family_is_known_until_it_is_forgotten(registered: Any) -> None:
    registered(leaky.FAMILY)
    assert "leaky" in families.names() and type(config_of_size("tiny", "leaky")) is leaky.LeakyConfig
    registered(leaky.FAMILY)  # twice is once
    with pytest.raises(AnymambaError, match="the name 'leaky' is free"):
        registered(replace(leaky.FAMILY, vocabulary_multiple=3))
    families.forget("leaky")
    with pytest.raises(AnymambaError, match="'leaky'"):
        LanguageModel(leaky.LeakyConfig())


@dataclass
class Nameless(Config):
    architecture: ClassVar[str] = "Nameless"


@dataclass
class Forgetful(leaky.LeakyConfig):
    model_type: ClassVar[str] = "forgetful"
    architecture: ClassVar[str] = "Forgetful"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        return cls(half_life=1.0)


class NoState(Mixer[Any]):
    def init_parameters(self) -> None: ...

    def forward(self, *arguments: Any, **keywords: Any) -> Any: ...


ALL_LEAKY = dataclasses.replace(leaky.FAMILY, layers=lambda config: [leaky.LEAKY] * config.num_hidden_layers)


def of_kind(**changes: Any) -> Family[Any]:
    """The throw-away family with another kind of layers."""
    kind = replace(leaky.LEAKY, **changes)
    return replace(leaky.FAMILY, layers=lambda config: [kind] * config.num_hidden_layers)


class ColumnState(leaky.LeakyMixer):
    @classmethod
    def make_state(cls, config: Any, batch: int, device: Any, dtype: Any) -> leaky.Mean:
        return leaky.Mean(torch.zeros(config.hidden_size, batch, device=device))


class NotAState(leaky.LeakyMixer):
    @classmethod
    def make_state(cls, config: Any, batch: int, device: Any, dtype: Any) -> Any:
        return torch.zeros(batch)


BROKEN: list[tuple[Any, str]] = [
    (None, "ends in FAMILY = Family"),
    (replace(ALL_LEAKY, config=dict), "derives from Config"),  # type: ignore[type-var]
    (replace(ALL_LEAKY, config=Nameless), "Nameless has a model_type of its own"),
    (replace(ALL_LEAKY, sizes={}), "one size at least"),
    (replace(ALL_LEAKY, sizes={"tiny": {"d_model": 16}}), "fields of the configuration only: .'d_model'."),
    (replace(ALL_LEAKY, config=Forgetful), "from_dict reads what to_dict writes"),
    (replace(ALL_LEAKY, layers=lambda config: [leaky.LEAKY]), "one LayerKind for each of num_hidden_layers"),
    (replace(ALL_LEAKY, layers=lambda config: ["leaky"] * config.num_hidden_layers), "one LayerKind for each"),
    (of_kind(mixer=nn.Linear), "Linear derives from Mixer"),
    (of_kind(mixer=NoState), "NoState defines make_state"),
]
BROKEN_MODELS: list[tuple[Any, str]] = [
    (of_kind(linear_layers=(*leaky.LEAKY.linear_layers, LinearLayer("mixer.x_proj"))), "not mixer.x_proj"),
    (of_kind(linear_layers=leaky.LEAKY.linear_layers[:1]), "every linear layer of the block, mixer.out_proj too"),
    (of_kind(mixer=ColumnState), r"3 first, not \[\(16, 3\)\]"),
    (of_kind(mixer=NotAState), "make_state returns a State"),
    (of_kind(names=(("leak.", "mixer."), ("leak.", "norm."))), "names lead back: backbone.layers.0.norm.weight is saved as"),
]


@pytest.mark.parametrize(("family", "rule"), BROKEN, ids=[rule for _, rule in BROKEN])
def test_a_broken_family_is_named_with_the_rule(family: Any, rule: str, registered: Any) -> None:
    with pytest.raises(AnymambaError, match=rule) as caught:
        registered(family)
    assert caught.value.code == "family"


@pytest.mark.parametrize(("family", "rule"), BROKEN_MODELS, ids=[rule for _, rule in BROKEN_MODELS])
def test_a_model_that_is_not_what_its_family_states(family: Any, rule: str, registered: Any) -> None:
    registered(family)
    with pytest.raises(AnymambaError, match=rule) as caught:
        LanguageModel(config_of_size("tiny", "leaky"))
    assert "throwaway_family" in str(caught.value) or "test_families" in str(caught.value)


def test_a_family_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "absent", "anymamba.models.absent")
    with pytest.raises(AnymambaError, match="'absent' cannot be imported from anymamba.models.absent") as caught:
        families.family("absent")
    assert "No module named" in str(caught.value)


def test_layers_alike_are_one_kind() -> None:
    kinds = families.family("mamba").layers(config_of_size("130m", "mamba"))
    assert len(kinds) == 24 and len(set(kinds)) == 1 and isinstance(kinds[0], LayerKind)
