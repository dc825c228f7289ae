"""A saved state belongs to weights, not to shapes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from anymamba.errors import AnymambaError, AnymambaWarning
from anymamba.generation import saved_state
from anymamba.generation.engine import Reader, generate
from anymamba.generation.quantize import quantize_int8
from anymamba.models import identity
from anymamba.models.cache import Cache
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config

CONFIGS = {
    "mamba": MambaConfig(61, 32, 5, 2),
    "untied": MambaConfig(61, 32, 5, 2, tie_word_embeddings=False),
    "mamba2": Mamba2Config(61, 32, 8, 2, num_heads=4, head_dim=16, n_groups=1),
}
IDS = torch.randint(0, 61, (1, 9), generator=torch.Generator().manual_seed(0))


def make(config: MambaConfig | Mamba2Config, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(config).eval()


def save(model: LanguageModel, path: Path) -> Path:
    reader = Reader(model)
    reader.read(IDS[:, :-1])
    saved_state.save(path, reader, IDS[0, -1:].tolist())
    return path


@pytest.fixture(params=CONFIGS, ids=str)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return make(CONFIGS[request.param])


def test_the_same_weights_go_on(model: LanguageModel, tmp_path: Path) -> None:
    path = save(model, tmp_path / "state")
    again = make(model.config)
    cache, pending = saved_state.load(path, again)
    text = generate(again, torch.tensor([pending]), 6, cache=cache, eos=[])
    assert torch.equal(text[0, 1:], generate(model, IDS, 6, eos=[])[0, 9:])


def test_other_weights_of_the_same_shapes_are_refused_and_nothing_is_taken_over(model: LanguageModel, tmp_path: Path) -> None:
    path = save(model, tmp_path / "state")
    cache = make(model.config, seed=1).make_cache(1)
    with pytest.raises(AnymambaError, match="another model") as caught:
        cache.load(path)
    assert "other values" in str(caught.value)
    assert cache.tokens == 0 and all(not layer.ssm.any() and not layer.used for layer in cache.layers)


def test_one_changed_weight_is_another_model(model: LanguageModel, tmp_path: Path) -> None:
    path = save(model, tmp_path / "state")
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            place = parameter.view(-1)[parameter.numel() // 3 :][:1]
            before = place.clone()
            place.copy_(torch.nextafter(before, torch.tensor(torch.inf)))
            with pytest.raises(AnymambaError, match="another model"):
                saved_state.load(path, model)
            place.copy_(before)
        saved_state.load(path, model), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_another_dtype_of_the_same_weights_is_the_same_model(model: LanguageModel, tmp_path: Path, dtype: torch.dtype) -> None:
    path = save(model, tmp_path / "state")
    rounded = make(model.config).to(dtype)
    saved_state.load(path, rounded)
    saved_state.load(save(rounded, tmp_path / "rounded"), model)
    int8 = quantize_int8(make(model.config))
    saved_state.load(path, int8)
    for other in (model, rounded):
        saved_state.load(save(int8, tmp_path / "int8"), other)
    for wrong in (make(model.config, 1).to(dtype), quantize_int8(make(model.config, 1))):
        with pytest.raises(AnymambaError, match="another model"):
            saved_state.load(path, wrong)
    with torch.no_grad():  # one step of training later, in another dtype
        tuned = make(model.config)
        for parameter in tuned.parameters():
            parameter.mul_(1.02)
    with pytest.raises(AnymambaError, match="another model"):
        saved_state.load(path, tuned.to(dtype))


def test_a_state_of_an_earlier_version_is_loaded_with_a_warning(model: LanguageModel, tmp_path: Path) -> None:
    path = save(model, tmp_path / "state")
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    assert json.loads(metadata.pop("weights"))["digest"] == identity.of(model)["digest"]
    save_file(tensors, tmp_path / "old", metadata)
    with pytest.warns(AnymambaWarning, match="only its shapes were compared"):
        saved_state.load(tmp_path / "old", make(model.config, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved_state.load(path, model)
        Cache(model.config, 1).load(path)  # a cache that knows no model has nothing to compare


def test_copies_of_a_cache_know_their_model(model: LanguageModel, tmp_path: Path) -> None:
    cache = model.make_cache(1)
    model(IDS, cache=cache)
    for other in (cache.clone(), cache.select(torch.tensor([0])), cache.to("cpu")):
        other.save(tmp_path / "state")
        with pytest.raises(AnymambaError, match="another model"):
            make(model.config, seed=1).make_cache(1).load(tmp_path / "state")
