"""Mamba-3 of upstream's main branch and of its release 2.3.2.post1: calls written for either mean here what they mean there."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from anymamba.errors import AnymambaWarning, ArgumentError, _said

SIZES = {"d_state": 8, "headdim": 8, "chunk_size": 8}


@pytest.fixture(autouse=True)
def unsaid() -> None:
    _said.clear()


def test_both_orders_of_arguments(dropin: None) -> None:
    from mamba_ssm.modules.mamba3 import Mamba3

    before = (32, 8, 2, 8, 1, 0.5, 0.001, 0.1, 1e-4, 1e-4, True, True, 2)  # d_model to mimo_rank
    released = Mamba3(*before, 16, 0.0, 3)
    assert (released.chunk_size, released.layer_idx, released.fuse_pregate_headwise_norm) == (16, 3, True)
    main = Mamba3(*before, False, 32, 0.0, 4)
    assert (main.chunk_size, main.layer_idx, main.fuse_pregate_headwise_norm) == (32, 4, False)
    assert Mamba3(*before, 16, layer_idx=5).layer_idx == 5


def test_each_activation_is_its_formula(dropin: None) -> None:
    from mamba_ssm.modules.mamba3 import Mamba3, heavy_tail_activation

    x = torch.tensor([-4.0, -1.0, 0.0, 2.0])
    torch.testing.assert_close(heavy_tail_activation(x), torch.tensor([0.2, 0.5, 1.0, 3.0]))
    u = torch.randn(1, 3, 16)
    for name, function in (("heavy_tail", heavy_tail_activation), ("softplus", F.softplus)):
        layer = Mamba3(16, **SIZES, a_activation=name)
        raw = layer.in_proj(u).split(layer._widths(), -1)[5]
        torch.testing.assert_close(layer._split(layer.in_proj(u))[5], -function(raw))
    assert Mamba3(16, **SIZES).a_activation == "heavy_tail"


def test_weights_that_do_not_say(dropin: None, tmp_path: Path) -> None:
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.modules.mamba3 import Mamba3

    layer = Mamba3(16, **SIZES)
    with pytest.warns(AnymambaWarning, match='a_activation="softplus"'):
        layer.load_state_dict(layer.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Mamba3(16, **SIZES, a_activation="softplus").load_state_dict(layer.state_dict())

    config = MambaConfig(16, 0, 1, 272, {"layer": "Mamba3", **SIZES})
    model = MambaLMHeadModel(config)
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert values["ssm_cfg"]["a_activation"] == "heavy_tail" and "a_activation" not in config.ssm_cfg
    assert activation_of(MambaLMHeadModel.from_pretrained(str(tmp_path))) == "heavy_tail"
    assert activation_of(MambaLMHeadModel.from_pretrained(str(tmp_path), a_activation="softplus")) == "softplus"
    del values["ssm_cfg"]["a_activation"]
    (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
    random = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    torch.save({**random, "lm_head.weight": random["backbone.embedding.weight"]}, tmp_path / "pytorch_model.bin")
    with pytest.warns(AnymambaWarning, match="uniform guess"):
        MambaLMHeadModel.from_pretrained(str(tmp_path))


def activation_of(model: Any) -> str:
    return model.backbone.layers[0].mixer.a_activation


def test_mimo_with_the_norm_inside(dropin: None) -> None:
    """fuse_pregate_headwise_rms_norm against norm, gate and sum written out."""
    from mamba_ssm.ops.tilelang.mamba3.mamba3_mimo import mamba3_mimo

    torch.manual_seed(0)
    batch, length, heads, rank, size, state = 2, 11, 4, 3, 8, 8
    shared = [torch.randn(batch, length, rank, 1, state) for _ in "qk"] + [torch.randn(batch, length, heads, size)]
    shared += [-torch.rand(batch, heads, length), torch.rand(batch, heads, length), torch.randn(batch, heads, length)]
    shared += [torch.randn(heads, rank, state) for _ in "qk"] + [torch.randn(heads, rank, size)]
    gate, down, D = torch.randn(heads, rank, size), torch.randn(heads, rank, size), torch.randn(heads)
    angles, Z, weight = torch.randn(batch, length, heads, state // 4), torch.randn(batch, length, heads, size), torch.rand(heads, size)
    y, *want_states = mamba3_mimo(*shared, None, None, angles, D, None, 8, 4, torch.float32, True)
    normed = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-3) * weight
    want = (normed * F.silu(Z.unsqueeze(2) * gate.transpose(0, 1)) * down.transpose(0, 1)).sum(2)
    options = {"fuse_pregate_headwise_rms_norm": True, "outproj_norm_eps": 1e-3}
    for shape in (weight, weight.flatten()):
        out, *states = mamba3_mimo(*shared, gate, down, angles, D, Z, 8, 4, torch.float32, True, None, **options, outproj_norm_weight=shape)
        torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(states, want_states))
    with pytest.raises(ArgumentError, match="needs Z"):
        mamba3_mimo(*shared, gate, down, angles, D, None, 8, 4, torch.float32, **options)


@pytest.mark.parametrize("wrong", [{"d_state": 7}, {"is_mimo": True, "mimo_rank": 0}, {"a_activation": "relu"}])
def test_bad_layers_are_named(wrong: dict, dropin: None) -> None:
    from mamba_ssm.modules.mamba3 import Mamba3

    with pytest.raises(ArgumentError, match=list(wrong)[-1]):
        Mamba3(16, **{**SIZES, **wrong})
