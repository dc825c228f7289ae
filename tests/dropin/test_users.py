"""What users do with the classes: subclass, patch, copy, pickle, compile, export, replicate; and generation with a cache."""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anymamba.dropin import finder

PREFIXES = {"mamba_ssm": finder.PACKAGES / "mamba_ssm", "causal_conv1d": finder.PACKAGES / "causal_conv1d"}
SUBMODULES = [
    ".".join((name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
    for name, folder in PREFIXES.items()
    for path in sorted(folder.rglob("*.py"))
]


@pytest.mark.parametrize("name", SUBMODULES)
def test_every_submodule_imports_under_its_own_name(name: str, dropin: None) -> None:
    module = importlib.import_module(name)
    assert module.__name__ == name and Path(str(module.__file__)).is_relative_to(finder.PACKAGES)
    assert pkgutil.resolve_name(name) is module


def test_a_subclass_with_an_own_step_in_it(dropin: None) -> None:
    from mamba_ssm import Mamba

    class Twice(Mamba):
        def forward(self, hidden_states: torch.Tensor, inference_params: Any = None) -> torch.Tensor:
            return 2 * super().forward(hidden_states, inference_params)

    mixer, x = Twice(16), torch.randn(2, 7, 16)
    torch.testing.assert_close(mixer(x), 2 * Mamba.forward(mixer, x))


def test_a_patched_function_is_the_one_that_runs(dropin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import mamba_ssm.modules.mamba_simple as simple

    seen = []
    monkeypatch.setattr(simple, "mamba_inner_fn", lambda *arguments, **keywords: seen.append(len(arguments)))
    simple.Mamba(16)(torch.randn(1, 3, 16))
    assert seen == [11]


def mixers() -> list[nn.Module]:
    from mamba_ssm.modules.mamba2 import Mamba2
    from mamba_ssm.modules.mamba2_simple import Mamba2Simple
    from mamba_ssm.modules.mamba_simple import Mamba

    return [
        Mamba(16, d_state=4),
        Mamba(16, d_state=4, use_fast_path=False, bias=True),
        Mamba2(16, d_state=8, headdim=8, ngroups=2, chunk_size=4),
        Mamba2(16, d_state=8, headdim=8, D_has_hdim=True, rmsnorm=False, d_ssm=16, use_mem_eff_path=False, chunk_size=4),
        Mamba2Simple(16, d_state=8, headdim=8, learnable_init_states=True),
    ]


@pytest.mark.parametrize("index", range(5))
def test_copies_and_pickles_compute_the_same(index: int, dropin: None) -> None:
    mixer, x = mixers()[index], torch.randn(2, 9, 16)
    expected = mixer(x)
    torch.testing.assert_close(copy.deepcopy(mixer)(x), expected)
    file = io.BytesIO()
    torch.save(mixer, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), expected)  # our own file
    torch.testing.assert_close(nn.DataParallel(mixer)(x), expected)
    expected.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize("index", [1, 3])
def test_the_two_paths_of_a_mixer_agree(index: int, dropin: None) -> None:
    mixer: Any = mixers()[index]
    x = torch.randn(2, 9, 16)
    expected = mixer(x)
    mixer.use_fast_path = mixer.use_mem_eff_path = True
    torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize("kind", ["compile", "export"])
def test_compiled_and_exported(kind: str, dropin: None) -> None:
    mixer, x = mixers()[0].eval(), torch.randn(1, 6, 16)
    expected = mixer(x)
    with torch.no_grad():
        if kind == "compile":
            torch.testing.assert_close(torch.compile(mixer, backend="eager", fullgraph=True)(x), expected)
        else:
            torch.testing.assert_close(torch.export.export(mixer, (x,)).module()(x), expected)


HYBRID = {
    "d_model": 32, "n_layer": 3, "vocab_size": 50, "d_intermediate": 40, "attn_layer_idx": [1],
    "attn_cfg": {"causal": True, "num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 4, "d_conv": 4},
}  # fmt: skip


@pytest.mark.parametrize("ssm_cfg", [{}, {"layer": "Mamba2", "headdim": 16, "d_state": 16, "chunk_size": 4}], ids=["mamba1", "mamba2"])
@pytest.mark.parametrize("options", [HYBRID, {**HYBRID, "fused_add_norm": False, "rms_norm": False, "residual_in_fp32": False}])
def test_cached_generation_equals_the_whole_sequence_at_once(ssm_cfg: dict, options: dict, dropin: None) -> None:
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.models.config_mamba import MambaConfig

    model = MambaLMHeadModel(MambaConfig(**options, ssm_cfg=ssm_cfg)).eval()
    assert model.lm_head.weight.shape == (56, 32)
    ids = torch.randint(0, 50, (2, 9))
    output = model.generate(ids, 15, return_dict_in_generate=True, output_scores=True)
    assert output.sequences.shape == (2, 15)
    with torch.no_grad():
        whole = model(output.sequences[:, :-1]).logits[:, 8:]
    torch.testing.assert_close(torch.stack(output.scores, dim=1), whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole.argmax(dim=-1), output.sequences[:, 9:])


def test_checkpoints_travel_without_pickle(dropin: None, tmp_path: Path) -> None:
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.models.config_mamba import MambaConfig
    from safetensors.torch import save_file

    model = MambaLMHeadModel(MambaConfig(d_model=16, n_layer=1, vocab_size=20))
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 20, (1, 5))
    expected = model(ids).logits
    torch.testing.assert_close(MambaLMHeadModel.from_pretrained(str(tmp_path))(ids).logits, expected)
    state = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}
    (tmp_path / "pytorch_model.bin").unlink()
    save_file(state, tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "config.json").read_text())["d_model"] == 16
    torch.testing.assert_close(MambaLMHeadModel.from_pretrained(str(tmp_path))(ids).logits, expected)


def test_state_dict_keys_are_upstreams(dropin: None) -> None:
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.models.config_mamba import MambaConfig

    mamba1 = {"A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias",
              "out_proj.weight"}  # fmt: skip
    mamba2 = {"A_log", "D", "dt_bias", "in_proj.weight", "conv1d.weight", "conv1d.bias", "norm.weight", "out_proj.weight"}
    for ssm_cfg, mixer in (({}, mamba1), ({"layer": "Mamba2", "headdim": 16}, mamba2)):
        model = MambaLMHeadModel(MambaConfig(d_model=32, n_layer=1, vocab_size=20, ssm_cfg=ssm_cfg))
        expected = {f"backbone.layers.0.mixer.{name}" for name in mixer}
        expected |= {"backbone.embedding.weight", "backbone.layers.0.norm.weight", "backbone.norm_f.weight", "lm_head.weight"}
        assert set(model.state_dict()) == expected


def test_the_compiled_modules_names(dropin: None) -> None:
    import causal_conv1d
    import causal_conv1d_cuda
    import selective_scan_cuda
    from causal_conv1d.cpp_functions import causal_conv1d_bwd_function
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, z, delta = torch.randn(2, 4, 7), torch.randn(2, 4, 7), torch.rand(2, 4, 7)
    A, D, bias = -torch.rand(4, 3), torch.randn(4), torch.randn(4)
    B, C = torch.randn(2, 1, 3, 7), torch.randn(2, 1, 3, 7)
    given = [tensor.requires_grad_() for tensor in (u, delta, A, B, C, D, z, bias)]
    gated, last_state = selective_scan_fn(*given, delta_softplus=True, return_last_state=True)
    out, x, out_z = selective_scan_cuda.fwd(u, delta, A, B, C, D, z, bias, True)
    torch.testing.assert_close(out_z, gated)
    torch.testing.assert_close(x[:, :, -1, 1::2], last_state)
    dout = torch.randn_like(gated)
    expected = torch.autograd.grad(gated, given, dout)
    found = selective_scan_cuda.bwd(u, delta, A, B, C, D, z, bias, dout, x, out, None, True, False)
    for actual, wanted in zip(found, [*expected[:6], expected[7], expected[6]], strict=True):
        torch.testing.assert_close(actual, wanted)

    weight = torch.randn(4, 3, requires_grad=True)
    convolved = causal_conv1d.causal_conv1d_fn(u, weight, bias, activation="silu")
    into = torch.zeros_like(u)
    causal_conv1d_cuda.causal_conv1d_fwd(u, weight, bias, None, None, into, None, True)
    torch.testing.assert_close(into, convolved)
    torch.testing.assert_close(causal_conv1d_cuda.causal_conv1d_fwd(u, weight, bias, None, None, None, True), convolved)
    wanted = torch.autograd.grad(convolved, (u, weight, bias), dout)
    dx, dweight, dbias, _ = causal_conv1d_bwd_function(u, weight, bias, dout, None, None, None, None, False, True)
    for actual, expected_gradient in zip((dx, dweight, dbias), wanted):
        torch.testing.assert_close(actual, expected_gradient)


def test_the_private_steps_of_the_scan_make_the_whole(dropin: None) -> None:
    from mamba_ssm.modules.ssd_minimal import segsum, segsum_unstable, ssd_minimal_discrete
    from mamba_ssm.ops.triton import ssd_chunk_scan, ssd_chunk_state
    from mamba_ssm.ops.triton import ssd_combined as combined

    x, z, dt = torch.randn(2, 10, 4, 3), torch.randn(2, 10, 4, 3), torch.randn(2, 10, 4)
    A, D, bias = -torch.rand(4), torch.randn(4), torch.randn(4)
    B, C = torch.randn(2, 10, 2, 5), torch.randn(2, 10, 2, 5)
    first = torch.randn(2, 4, 3, 5)
    ids = torch.tensor([[0] * 6 + [1] * 4, [0] * 3 + [2] * 7], dtype=torch.int32)
    for seq_idx in (None, ids):
        expected = combined.mamba_chunk_scan_combined(
            x, dt, A, B, C, 4, D, z, bias, first, seq_idx, dt_softplus=True, return_final_states=True
        )
        found = combined._mamba_chunk_scan_combined_fwd(x, dt, A, B, C, 4, D, z, bias, first, seq_idx, None, True)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[5], expected[1], rtol=1e-4, atol=1e-4)
    sums, steps = ssd_chunk_state._chunk_cumsum_fwd(dt, A, 5, bias, True)
    states = ssd_chunk_state.chunk_state(B, x, steps, sums)
    torch.testing.assert_close(states, ssd_chunk_state.chunk_state_ref(B, x, steps, sums))
    before, final = combined.state_passing(states.flatten(3), sums[..., -1])
    for actual, wanted in zip((before, final), combined.state_passing_ref(states.flatten(3), sums[..., -1])):
        torch.testing.assert_close(actual, wanted)
    arguments = (B, C, x, steps, sums, before.unflatten(3, (3, 5)), D, z)
    torch.testing.assert_close(ssd_chunk_scan.chunk_scan(*arguments), ssd_chunk_scan.chunk_scan_ref(*arguments))
    heads = [M.repeat_interleave(2, dim=2) for M in (B, C)]
    step = torch.nn.functional.softplus(dt + bias)
    Y, last = ssd_minimal_discrete(x * step[..., None], A * step, *heads, 5)
    wanted = combined.mamba_chunk_scan_combined(x, step, A, B, C, 5, return_final_states=True)
    torch.testing.assert_close((Y, last), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(combined.ssd_selective_scan(x, step, A, B, C), wanted[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(segsum(dt), segsum_unstable(dt))


def test_outputs_may_be_changed_in_place(dropin: None) -> None:
    """causal_conv1d's own test adds to the output: no op may return a view made inside its autograd node."""
    from causal_conv1d import causal_conv1d_fn
    from mamba_ssm import selective_scan_fn
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    x = torch.randn(2, 7, 4, requires_grad=True)
    given = {
        "conv": causal_conv1d_fn(x.mT, torch.randn(4, 3)),
        "scan": selective_scan_fn(x.mT, x.mT, -torch.rand(4, 3), torch.randn(2, 3, 7), torch.randn(2, 3, 7), delta_softplus=True),
        "ssd": mamba_chunk_scan_combined(
            x[..., None], x, -torch.rand(4), torch.randn(2, 7, 1, 3), torch.randn(2, 7, 1, 3), 4, dt_softplus=True
        ),
    }
    for out in given.values():
        out *= 2
        out.sum().backward()


def test_the_reference_functions_ask_no_backend(dropin: None) -> None:
    """They are what others test kernels against, so they must not be the kernels."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_ref
    from mamba_ssm.ops.triton.ssd_combined import mamba_split_conv1d_scan_ref, ssd_chunk_scan_combined_ref

    from anymamba.dropin import counting

    xz, A = torch.randn(2, 16, 9), -torch.rand(8, 4)
    x, B = torch.randn(2, 9, 4, 3), torch.randn(2, 9, 1, 5)
    counting.forget()
    selective_scan_ref(xz[:, :8], xz[:, 8:], A, torch.randn(2, 4, 9), torch.randn(2, 4, 9))
    ssd_chunk_scan_combined_ref(x, torch.rand(2, 9, 4), A[:4, 0], B, B, 4)
    mamba_split_conv1d_scan_ref(
        torch.randn(2, 9, 38), torch.randn(22, 3), None, torch.rand(4), A[:4, 0], torch.ones(4), 4, headdim=3
    )
    assert not counting.served


def test_both_insides_of_the_mixer_are_the_mathematics(dropin: None) -> None:
    """Upstream's mamba_inner_ref is made of the ops, and so is ours: neither is what the other can be tested against."""
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, mamba_inner_ref

    from anymamba.reference import mamba_inner

    xz, A = torch.randn(2, 16, 9), -torch.rand(8, 4)
    inner = (xz, torch.randn(8, 1, 3), None, torch.randn(10, 8), torch.randn(8, 2), torch.randn(5, 8), None, A)
    exact = mamba_inner.mamba_inner_fn(*(value.double() if isinstance(value, torch.Tensor) else value for value in inner)).float()
    for function in (mamba_inner_fn, mamba_inner_ref):
        torch.testing.assert_close(function(*inner), exact, rtol=1e-4, atol=1e-4)


def test_state_dict_keys_of_every_class(dropin: None) -> None:
    """Read in the sources of 2.3.2.post1."""
    from mamba_ssm.modules.block import Block
    from mamba_ssm.modules.mamba2 import Mamba2
    from mamba_ssm.modules.mamba2_simple import Mamba2Simple
    from mamba_ssm.modules.mha import MHA
    from mamba_ssm.modules.mlp import GatedMLP
    from mamba_ssm.ops.triton import layer_norm, layernorm_gated

    linear = {"in_proj.weight", "out_proj.weight"}
    expected: list[tuple[nn.Module, set[str]]] = [
        (Mamba2(16, headdim=8, rmsnorm=False, conv_bias=False, bias=True),
         linear | {"in_proj.bias", "out_proj.bias", "conv1d.weight", "dt_bias", "A_log", "D"}),
        (Mamba2Simple(16, headdim=8, learnable_init_states=True),
         linear | {"conv1d.weight", "conv1d.bias", "init_states", "dt_bias", "A_log", "D", "norm.weight"}),
        (MHA(16, 4, d_conv=3, qkv_proj_bias=False), linear | {"out_proj.bias", "conv1d.weight", "conv1d.bias"}),
        (MHA(16, 4, rotary_emb_dim=4, out_proj_bias=False), linear | {"in_proj.bias"}),
        (GatedMLP(16), {"fc1.weight", "fc2.weight"}),
        (Block(16, lambda d: nn.Linear(d, d), lambda d: nn.Linear(d, d)),
         {f"{part}.{name}" for part in ("norm", "norm2", "mixer", "mlp") for name in ("weight", "bias")}),
        (layer_norm.RMSNorm(16), {"weight"}),
        (layernorm_gated.RMSNorm(16), {"weight"}),
        (layernorm_gated.LayerNorm(16), {"weight", "bias"}),
    ]  # fmt: skip
    for module, keys in expected:
        assert set(module.state_dict()) == keys, type(module).__name__


@pytest.mark.parametrize("index", [0, 2, 4])
def test_training_under_torch_compile_and_export_of_each_mixer(index: int, dropin: None) -> None:
    mixer, x = mixers()[index], torch.randn(1, 6, 16)
    expected = mixer(x)
    expected.square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in mixer.named_parameters() if p.grad is not None}
    mixer.zero_grad()
    y = torch.compile(mixer, backend="aot_eager")(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    for name, parameter in mixer.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-5)
    argument = next(iter(inspect.signature(mixer.forward).parameters))
    length = 3 * torch.export.Dim("k", min=1, max=20)
    program = torch.export.export(mixer.eval(), (x,), dynamic_shapes={argument: {1: length}})
    longer = torch.randn(1, 12, 16)
    torch.testing.assert_close(program.module()(longer), mixer(longer))
