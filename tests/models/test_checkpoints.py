"""Every form of checkpoint, and every way in which one can be broken."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

import anymamba
from anymamba.errors import AnymambaError
from anymamba.models import hub
from anymamba.models.hub import files
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.models.sizes import config_of_size
from anymamba.models.tokenizer import byte_tokenizer

IDS = torch.arange(30).view(2, 15)


def tiny(**options: Any) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(
        MambaConfig(vocab_size=56, hidden_size=16, num_hidden_layers=2, state_size=4, **options)
    ).eval()


def tiny2(**options: Any) -> LanguageModel:
    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "num_heads": 1, "state_size": 128, "num_hidden_layers": 2, "n_groups": 1}
    return LanguageModel(Mamba2Config(vocab_size=48, **{**sizes, **options})).eval()


@torch.no_grad()
def same(one: LanguageModel, other: LanguageModel) -> None:
    assert_close(one(IDS).logits, other(IDS).logits, rtol=0, atol=0)


def original_names(model: LanguageModel, prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        prefix + name.replace("embeddings.", "embedding."): t.detach().clone() for name, t in model.state_dict().items()
    }


def test_save_and_load(tmp_path: Path) -> None:
    model = tiny()
    hub.save(model, tmp_path / "a")
    loaded = anymamba.load(tmp_path / "a")
    same(model, loaded)
    assert loaded.lm_head.weight is loaded.backbone.embeddings.weight
    assert not loaded.training
    assert getattr(loaded.backbone.layers[0].mixer.A_log, "_no_weight_decay", False)
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "generation_config.json", "model.safetensors"]
    assert os.listdir(tmp_path) == ["a"]


def test_load_in_another_dtype(tmp_path: Path) -> None:
    hub.save(tiny(), tmp_path / "a")
    assert {p.dtype for p in hub.load(tmp_path / "a", dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("tied", [True, False])
def test_sharded(tmp_path: Path, tied: bool) -> None:
    model = tiny(tie_word_embeddings=tied)
    hub.save(model, tmp_path / "a", shard_bytes=3000)
    names = [name for name in os.listdir(tmp_path / "a") if name.endswith(".safetensors")]
    assert len(names) > 3 and "model.safetensors.index.json" in os.listdir(tmp_path / "a")
    same(model, hub.load(tmp_path / "a"))
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a").eval()
    with torch.no_grad():
        assert_close(peer(IDS).logits, model(IDS).logits, rtol=0, atol=1e-4)
    (tmp_path / "a" / names[0]).unlink()
    with pytest.raises(AnymambaError, match=names[0]):
        hub.load(tmp_path / "a")


def test_saving_over_an_older_checkpoint_keeps_its_other_files(tmp_path: Path) -> None:
    hub.save(tiny(), tmp_path / "a", shard_bytes=5000)
    (tmp_path / "a" / "optimizer.bin").write_text("state")
    new = tiny(tie_word_embeddings=False)
    hub.save(new, tmp_path / "a")
    same(new, hub.load(tmp_path / "a"))
    assert (tmp_path / "a" / "optimizer.bin").read_text() == "state"
    assert not list((tmp_path / "a").glob("model-0*")) and os.listdir(tmp_path) == ["a"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    hub.save(model, tmp_path / "a")
    monkeypatch.setattr(hub.weights, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        hub.save(tiny(tie_word_embeddings=False), tmp_path / "a")
    same(model, hub.load(tmp_path / "a"))
    assert os.listdir(tmp_path) == ["a"]


def test_transformers_pickles_and_shards(tmp_path: Path, peers: Any) -> None:
    peer, folder = peers["mamba"]
    shutil.copytree(folder, tmp_path / "bin")
    state = load_file(tmp_path / "bin" / "model.safetensors")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    peer.save_pretrained(tmp_path / "sharded", max_shard_size="4KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").exists()
    for name in ("bin", "sharded"):
        same(hub.load(folder), hub.load(tmp_path / name))


def test_original_mamba(tmp_path: Path) -> None:
    """d_model 16 and vocabulary 53 padded to 56, as MambaLMHeadModel.save_pretrained writes them."""
    model = tiny()
    config = {
        "d_model": 16, "n_layer": 2, "vocab_size": 53, "ssm_cfg": {"d_state": 4}, "rms_norm": True, "residual_in_fp32": True,
        "fused_add_norm": True, "pad_vocab_size_multiple": 8,
    }  # fmt: skip
    files.write_json(tmp_path / "config.json", config)
    torch.save(original_names(model), tmp_path / "pytorch_model.bin")
    loaded = hub.load(tmp_path)
    same(model, loaded)
    assert loaded.config.vocab_size == 56 and loaded.config.tie_word_embeddings


def test_original_mamba2(tmp_path: Path) -> None:
    model = tiny2(tie_word_embeddings=True)
    config = {
        "d_model": 32, "d_intermediate": 0, "n_layer": 2, "vocab_size": 47, "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [],
        "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }  # fmt: skip
    files.write_json(tmp_path / "config.json", config)
    torch.save(original_names(model), tmp_path / "pytorch_model.bin")
    same(model, hub.load(tmp_path))


def test_codestral(tmp_path: Path) -> None:
    model = tiny2(n_groups=1)
    params = {
        "dim": 32, "n_layers": 2, "vocab_size": 48, "n_groups": 1, "rms_norm": True, "residual_in_fp32": True,
        "fused_add_norm": True, "pad_vocab_size_multiple": 1, "tie_embeddings": False, "model_type": "mamba",
    }  # fmt: skip
    files.write_json(tmp_path / "params.json", params)
    save_file(original_names(model, "model."), tmp_path / "consolidated.safetensors")
    same(model, hub.load(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"attn_layer_idx": [1]},
        {"d_intermediate": 64},
        {"rms_norm": False},
        {"ssm_cfg": {"layer": "Mamba4"}},
        {"ssm_cfg": {"layer": "Mamba2", "D_has_hdim": True}},
    ],
)
def test_original_models_that_have_more_than_mamba(tmp_path: Path, change: Any) -> None:
    files.write_json(tmp_path / "config.json", {"d_model": 16, "n_layer": 2, **change})
    (name,) = change
    with pytest.raises(AnymambaError, match=name):
        hub.load(tmp_path)


def test_unknown_model_type_lists_the_known(tmp_path: Path) -> None:
    files.write_json(tmp_path / "config.json", {"model_type": "llama"})
    with pytest.raises(AnymambaError, match="llama") as caught:
        hub.load(tmp_path)
    assert "mamba, mamba2, mamba3, falcon_mamba" in str(caught.value)


def test_missing_folder_and_files(tmp_path: Path) -> None:
    (tmp_path / "neighbour").mkdir()
    with pytest.raises(AnymambaError, match="neighbour"):
        hub.load(tmp_path / "none")
    (tmp_path / "neighbour" / "notes.txt").write_text("x")
    with pytest.raises(AnymambaError, match="notes.txt"):
        hub.load(tmp_path / "neighbour")
    hub.save(tiny(), tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(AnymambaError, match="config.json, generation_config.json"):
        hub.load(tmp_path / "a")
    with pytest.raises(AnymambaError, match="is a file"):
        hub.load(tmp_path / "a" / "config.json")


def test_a_hub_name_is_downloaded_only_where_no_folder_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, allow_patterns: Any) -> Any:
        asked.append(name)
        return str(tmp_path / "a")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    hub.save(tiny(), tmp_path / "a")
    hub.save(tiny(), tmp_path / "owner" / "here")
    hub.load("owner/here")
    assert asked == []
    hub.load("owner/elsewhere")
    assert asked == ["owner/elsewhere"]


def test_offline_names_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(AnymambaError, match="no route to host"):
        hub.load("owner/name")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_truncated_safetensors(tmp_path: Path, keep: float) -> None:
    hub.save(tiny(), tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(AnymambaError, match="model.safetensors"):
        hub.load(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip file"])
def test_broken_pickle(tmp_path: Path, content: bytes) -> None:
    files.write_json(tmp_path / "config.json", {"model_type": "mamba"})
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(AnymambaError, match="pytorch_model.bin"):
        hub.load(tmp_path)


def test_a_pickle_that_would_run_a_program_is_not_opened(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    files.write_json(tmp_path / "config.json", {"model_type": "mamba"})
    torch.save({"weight": Program()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(AnymambaError, match="more than tensors"):
        hub.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_config_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mam')
    with pytest.raises(AnymambaError, match="not valid JSON"):
        hub.load(tmp_path)


def change_weights(folder: Path, change: Any) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_missing_unexpected_and_misshaped_keys_are_named(tmp_path: Path) -> None:
    hub.save(tiny(), tmp_path / "a")

    def change(state: dict[str, Tensor]) -> None:
        del state["backbone.norm_f.weight"]
        state["backbone.layers.7.mixer.D"] = torch.ones(3)
        state["backbone.layers.0.mixer.D"] = torch.ones(5)

    change_weights(tmp_path / "a", change)
    with pytest.raises(AnymambaError) as caught:
        hub.load(tmp_path / "a")
    for part in ("backbone.norm_f.weight", "backbone.layers.7.mixer.D", "backbone.layers.0.mixer.D (5,)", "(32,)"):
        assert part in str(caught.value)


def test_vocabulary_mismatch(tmp_path: Path) -> None:
    hub.save(tiny(), tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    files.write_json(tmp_path / "a" / "config.json", {**config, "vocab_size": 64})
    with pytest.raises(AnymambaError, match="56 rows.*vocab_size 64") as caught:
        hub.load(tmp_path / "a")
    assert caught.value.code == "vocabulary"
    with pytest.raises(AnymambaError, match="262 tokens, the model 56"):
        hub.save(tiny(), tmp_path / "b", byte_tokenizer())
    assert not (tmp_path / "b").exists()
    with pytest.raises(AnymambaError, match="56"):
        tiny()(torch.tensor([[1, 56]]))


def test_tokenizer_ids_go_into_the_configuration(tmp_path: Path) -> None:
    model = LanguageModel(MambaConfig(262, 16, 4, 1))
    hub.save(model, tmp_path / "a", byte_tokenizer())
    config = hub.load(tmp_path / "a").config
    assert (config.bos_token_id, config.pad_token_id) == (256, 257)
    assert config.eos_token_ids == [256, 261]  # the end of a text, and of an answer by the chat template


def test_sizes_of_mamba3_are_near_those_of_the_others() -> None:
    for size, millions in {"130m": 129, "370m": 370, "790m": 792, "1.4b": 1372, "2.8b": 2768}.items():
        with torch.device("meta"):
            model = LanguageModel(config_of_size(size, "mamba3"))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_published_sizes(family: str) -> None:
    """Parameters of the published models, in millions (counted from their configurations; tied)."""
    for size, millions in {"130m": 129, "370m": 370, "790m": 792, "1.4b": 1372, "2.8b": 2768}.items():
        with torch.device("meta"):
            model = LanguageModel(config_of_size(size, family))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)
    with pytest.raises(AnymambaError, match="130m"):
        config_of_size("7b")


def test_initialisation_as_upstream() -> None:
    torch.manual_seed(0)
    model = LanguageModel(MambaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=4))
    mixer = model.backbone.layers[0].mixer
    dt = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert 0.9e-3 < dt.min() < 2e-3 and 0.05 < dt.max() < 0.101
    assert_close(mixer.A_log.exp()[3], torch.arange(1.0, 17.0))
    assert model.backbone.embeddings.weight.std().item() == pytest.approx(0.02, rel=0.1)
    bound = (1 / mixer.out_proj.in_features) ** 0.5 / 2  # kaiming with a = sqrt(5), over the root of 4 layers
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound * 1.0001
    unmarked = {name for name, p in model.named_parameters() if not getattr(p, "_no_weight_decay", False)}
    assert "backbone.layers.1.mixer.A_log" not in unmarked and "backbone.layers.1.mixer.D" not in unmarked
    mixer2 = (
        LanguageModel(Mamba2Config(64, 32, num_heads=2, head_dim=32, n_groups=1, num_hidden_layers=1))
        .backbone.layers[0]
        .mixer
    )
    assert all(getattr(p, "_no_weight_decay", False) for p in (mixer2.A_log, mixer2.D, mixer2.dt_bias))
    assert (mixer2.A_log.exp() >= 1).all() and (mixer2.A_log.exp() <= 16.001).all()


@pytest.mark.parametrize(
    "options", [{"num_heads": 5}, {"n_groups": 3}, {"hidden_act": "gelu"}, {"state_size": 0}, {"vocab_size": "many"}]
)
def test_impossible_configurations(options: Any) -> None:
    with pytest.raises(AnymambaError, match=next(iter(options))):
        Mamba2Config(**{"hidden_size": 32, "num_heads": 2, "head_dim": 32, "n_groups": 1, **options})
