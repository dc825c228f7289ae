"""The recipe "Add a model family" of CONTRIBUTING.md, followed with a family that nobody needs: what it says is true and enough.

The paths and names below are taken from the recipe's own words, so that a recipe that changes changes what is done here.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import anymamba
from anymamba import models
from anymamba.cli import main
from anymamba.generation.quantize import QuantizedLinear
from anymamba.models import families
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("throwaway_family.py")


def steps() -> list[str]:
    """The numbered steps of the recipe, each in one line."""
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Add a model family\n")[1].split("\n## ")[0]
    return [" ".join(step.split()) for step in re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]]


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps 1 and 2 in a copy of the tree that has nothing but what they add."""
    first, second, third = steps()
    path = re.search(r"`(src/[\w/<>]+\.py)`", first)
    table = re.search(r"`(\w+)` in `(src/[\w/]+\.py)`", second)
    assert path and table and "`tests/models/`" in third
    file = tmp_path / path[1].replace("<model_type>", "leaky")
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(file.parent)])
    package = importlib.import_module(".".join(Path(table[2]).parent.parts[1:]))
    monkeypatch.setitem(getattr(package, table[1]), "leaky", f"{package.__name__}.leaky")
    yield
    families.forget("leaky")
    sys.modules.pop("anymamba.models.leaky", None)


def test_train_load_generate_and_quantize(followed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = tmp_path / "book.txt"
    book.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    run = tmp_path / "run"
    words = ["--model", "leaky", "--size", "tiny", "--steps", "1", "--length", "32", "--batch-tokens", "64", "--device", "cpu"]
    assert main(["train", str(book), "--out", str(run), *words, "--sample-every", "-1"]) == 0
    capsys.readouterr()
    assert main(["generate", str(run), "--prompt", "the quick", "--max-tokens", "4", "--device", "cpu"]) == 0
    assert capsys.readouterr().out
    assert main(["sizes", "--model", "leaky", "--json", "--device", "cpu"]) == 0
    assert [row["size"] for row in json.loads(capsys.readouterr().out)["sizes"]] == ["tiny", "small"]
    model = anymamba.load(run, device="cpu")
    assert model.config.model_type == "leaky" and type(model.generate("the quick", 3)) is str
    assert type(anymamba.load(run, device="cpu", quantize="int8").generate("the quick", 3)) is str


def test_the_checkpoint_has_the_familys_own_names(followed: None, tmp_path: Path) -> None:
    model = anymamba.generation.Model(config_of_size("small", "leaky", 264)).eval()
    model.save_pretrained(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["architectures"] == ["LeakyForCausalLM"]
    saved = set(load_file(tmp_path / "a" / "model.safetensors"))
    assert {"model.embed_tokens.weight", "model.layers.0.leak.decay", "model.layers.1.self_attn.qkv_proj.bias"} < saved
    assert {"model.layers.1.post_attention_layernorm.weight", "model.layers.1.mlp.fc1.weight", "model.norm.weight"} < saved
    ids = torch.randint(264, (2, 7))
    assert torch.equal(anymamba.load(tmp_path / "a", device="cpu")(ids).logits, model(ids).logits)


def test_its_states_are_saved_selected_and_reset(followed: None, tmp_path: Path) -> None:
    """Also those of a layer whose state grows with the text."""
    model = LanguageModel(config_of_size("small", "leaky", 264)).eval()
    ids = torch.randint(264, (2, 9))
    with torch.no_grad():
        whole = model(ids).logits
        cache = model.make_cache(2)
        first = model(ids[:, :4], cache=cache).logits
        assert first is not None and whole is not None
        torch.testing.assert_close(first, whole[:, :4])
        cache.save(tmp_path / "state.safetensors")
        again = model.make_cache(2)
        again.load(tmp_path / "state.safetensors")
        turned = cache.select(torch.tensor([1, 0]))
        for part, rows in ((again, ids), (cache, ids), (turned, ids.flip(0))):
            rest = [model(token, cache=part).logits for token in rows[:, 4:].split(1, dim=1)]
            torch.testing.assert_close(torch.cat(rest, 1), whole[:, 4:] if part is not turned else whole.flip(0)[:, 4:])  # type: ignore[arg-type]
        cache.reset()
        torch.testing.assert_close(model(ids, cache=cache).logits, whole)


def test_documents_padding_and_recomputed_blocks(followed: None) -> None:
    model = LanguageModel(config_of_size("small", "leaky", 264))
    ids = torch.randint(264, (1, 8))
    packed = model(ids, seq_idx=torch.tensor([[0] * 3 + [1] * 5])).logits
    torch.testing.assert_close(packed[:, 3:], model(ids[:, 3:]).logits)
    padded = model(ids, attention_mask=torch.tensor([[0] * 3 + [1] * 5])).logits
    torch.testing.assert_close(padded[:, 3:], model(ids[:, 3:]).logits)
    grads = []
    runs: list[nn.Module] = []
    for block in model.backbone.layers:
        block.register_forward_pre_hook(lambda module, _: runs.append(module))
    for model.backbone.gradient_checkpointing in (False, True):
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    blocks = list(model.backbone.layers)
    assert runs == [*blocks, *blocks, *reversed(blocks)]
    torch.testing.assert_close(grads[1], grads[0])
    model.backbone.gradient_checkpointing = True
    cache = model.make_cache()
    pieces = [model(piece, cache=cache).logits for piece in ids.split(4, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(ids).logits)


def test_int8_and_lora_concern_the_layers_that_it_states(followed: None) -> None:
    config = config_of_size("tiny", "leaky", 264)
    assert families.family_of(config).lora_targets(config) == ["in_proj", "out_proj", "qkv_proj", "o_proj", "fc1", "fc2"]
    model = anymamba.generation.quantize.quantize_int8(LanguageModel(config))
    rounded = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    names = ["0.mixer.in_proj", "0.mixer.out_proj", "1.mixer.qkv_proj", "1.mixer.o_proj", "1.mlp.fc1"]
    assert rounded == {"lm_head", *(f"backbone.layers.{name}" for name in names)}


def test_a_package_brings_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By the entry point that step 2 points to; nothing of anymamba is changed."""
    place = re.search(r"entry point instead, see `(src/[\w/]+\.py)`", steps()[1])
    assert place
    lines = (ROOT / place[1]).read_text("utf-8").split('"""')[1].splitlines()
    heading, entry = next((one, two) for one, two in zip(lines, lines[1:]) if "project.entry-points" in one)
    group = re.search(r'\[project\.entry-points\."([\w.]+)"\]', heading)
    assert group
    (tmp_path / "leaky_package.py").write_text(SOURCE.read_text("utf-8"), "utf-8")
    metadata = tmp_path / "leaky-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    line = entry.strip().replace("my_package.my_model", "leaky_package").replace("my_model", "leaky").replace('"', "")
    (metadata / "entry_points.txt").write_text(f"[{group[1]}]\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert main(["sizes", "--model", "leaky", "--json", "--device", "cpu"]) == 0
        assert len(json.loads(capsys.readouterr().out)["sizes"]) == 2
    finally:
        families.forget("leaky")
        sys.modules.pop("leaky_package", None)
