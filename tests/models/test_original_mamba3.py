"""Checkpoints in the form of state-spaces/mamba3-*: config.json and pytorch_model.bin in bfloat16, embedding and head one table, no
tokenizer in the folder. Random weights; the names, shapes and sizes of the vocabulary are the published ones'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anymamba.cli import main
from anymamba.errors import AnymambaError
from anymamba.generation.model import load
from anymamba.models.hub import files
from anymamba.models.tokenizer import byte_tokenizer, load_tokenizer

SSM = {"layer": "Mamba3", "d_state": 16, "expand": 2, "headdim": 16, "ngroups": 1, "rope_fraction": 0.5, "chunk_size": 16}
KINDS: dict[str, dict[str, Any]] = {"siso": {}, "mimo": {"is_mimo": True, "mimo_rank": 4}, "norm": {"is_outproj_norm": True}}


def write(folder: Path, kind: str) -> Path:
    ssm = {**SSM, **KINDS[kind]}
    size, width, vocabulary, inner, rank = 32, 128, 128256, 64, ssm.get("mimo_rank", 1)
    heads, state = inner // ssm["headdim"], ssm["d_state"]
    config = {
        "d_model": size, "d_intermediate": 96, "n_layer": 2, "vocab_size": vocabulary, "ssm_cfg": ssm, "attn_layer_idx": [],
        "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }  # fmt: skip
    torch.manual_seed(0)

    def random(*shape: int, scale: float = 0.2) -> torch.Tensor:
        return (torch.randn(shape) * scale).bfloat16()

    state_dict = {"backbone.embedding.weight": random(vocabulary, size)}
    for i in range(2):
        layer = f"backbone.layers.{i}."
        in_width = 2 * inner + 2 * state * rank + 3 * heads + state // 4
        mixer = {
            "dt_bias": random(heads) - 3, "B_bias": 1 + random(heads, rank, state), "C_bias": 1 + random(heads, rank, state),
            "D": 1 + random(heads), "in_proj.weight": random(in_width, size), "B_norm.weight": 1 + random(state),
            "C_norm.weight": 1 + random(state), "out_proj.weight": random(size, inner),
        }  # fmt: skip
        if ssm.get("is_mimo"):
            mixer.update({f"mimo_{name}": random(heads, rank, ssm["headdim"]) for name in "xzo"})
        if ssm.get("is_outproj_norm"):
            mixer["norm.weight"] = 1 + random(inner)
        state_dict.update({f"{layer}mixer.{name}": tensor for name, tensor in mixer.items()})
        state_dict.update({f"{layer}norm.weight": 1 + random(size), f"{layer}norm2.weight": 1 + random(size)})
        state_dict.update({f"{layer}mlp.fc1.weight": random(2 * width, size), f"{layer}mlp.fc2.weight": random(size, width)})
    state_dict["backbone.norm_f.weight"] = 1 + random(size)
    state_dict["lm_head.weight"] = state_dict["backbone.embedding.weight"]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    torch.save(state_dict, folder / "pytorch_model.bin")
    return folder


@pytest.mark.filterwarnings("ignore:this Mamba-3 checkpoint")
@pytest.mark.parametrize("kind", KINDS)
def test_they_load_and_generate(kind: str, tmp_path: Path) -> None:
    model = load(write(tmp_path, kind), "cpu")
    assert model.lm_head.weight is model.backbone.embeddings.weight and model.dtype == torch.bfloat16
    model.float()
    ids = torch.randint(128256, (2, 7), generator=torch.Generator().manual_seed(3))
    written = model.generate(ids, 5, eos=[])
    assert written.shape == (2, 12)
    with torch.no_grad():  # token by token with a state, and the whole row at once
        logits = model(written[:, :-1]).logits
    assert logits is not None
    assert torch.equal(logits[:, 6:].argmax(-1), written[:, 7:])
    model.tokenizer = byte_tokenizer()
    assert isinstance(model.generate("The river", 4), str)


@pytest.mark.filterwarnings("ignore:this Mamba-3 checkpoint")
def test_the_command_line_says_where_the_tokenizer_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "model", "siso")
    assert main(["generate", str(folder), "-p", "The river", "--a-activation", "heavy_tail", "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert "meta-llama/Llama-3.1-8B" in error and "hf auth login" in error
    byte_tokenizer().save(tmp_path / "words")
    command = ["generate", str(folder), "-p", "The river", "-m", "3", "--a-activation", "heavy_tail", "--device", "cpu"]
    assert main([*command, "--tokenizer", str(tmp_path / "words")]) == 0
    assert "activation" not in capsys.readouterr().err
    (folder / "config.json").write_text('{"d_model": 8, "n_layer": 1}', "utf-8")
    with pytest.raises(AnymambaError, match="gpt-neox-20b"):
        load_tokenizer(folder)


def test_a_gated_repository_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class GatedRepoError(Exception):
        pass

    def refuse(*_: Any, **__: Any) -> str:
        raise GatedRepoError("401 Client Error")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(AnymambaError, match="is gated") as caught:
        files.download("meta-llama/Llama-3.1-8B", ["tokenizer.json"])
    assert "accept it at https://huggingface.co/meta-llama/Llama-3.1-8B" in str(caught.value)
