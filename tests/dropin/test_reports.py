"""Public reports about mamba_ssm, tried under the drop-in. Numbers are those of state-spaces/mamba unless said otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import anymamba
from anymamba import errors, ops
from tests.dropin import tiny_transformers
from tests.dropin.attachments import LoRA

pytestmark = pytest.mark.usefixtures("dropin")


def mixer(name: str, **options: Any) -> Any:
    import mamba_ssm

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_state": 8} if name == "Mamba" else {"d_state": 8, "headdim": 8, "chunk_size": 8}
    return getattr(mamba_ssm, name)(16, layer_idx=0, **{**sizes, **options})


def in_steps(model: Any, x: torch.Tensor, first: int) -> torch.Tensor:
    from mamba_ssm.utils.generation import InferenceParams

    params = InferenceParams(max_seqlen=x.shape[1], max_batch_size=len(x))
    parts = [model(x[:, :first], inference_params=params)]
    for at in range(first, x.shape[1]):
        params.seqlen_offset = at
        parts.append(model(x[:, at : at + 1], inference_params=params))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("name,layers", [("Mamba", ("x_proj", "out_proj", "in_proj")), ("Mamba2", ("in_proj", "out_proj"))])
def test_lora_gets_gradients_279_and_peft_2274(name: str, layers: tuple[str, ...]) -> None:
    model = mixer(name)
    for layer in layers:
        setattr(model, layer, LoRA(getattr(model, layer)))
    model(torch.randn(2, 9, 16)).square().sum().backward()
    for layer in layers:
        assert getattr(model, layer).A.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
def test_steps_equal_the_whole_beyond_30_tokens_683(name: str) -> None:
    model, x = mixer(name), torch.randn(2, 40, 16)
    with torch.no_grad():
        torch.testing.assert_close(in_steps(model, x, 1), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("limit", [(0.0, 0.02), (0.05, 0.1)])
def test_steps_obey_dt_limit(limit: tuple[float, float]) -> None:
    """Upstream's step ignores it."""
    model, x = mixer("Mamba2", dt_limit=limit), torch.randn(2, 20, 16)
    with torch.no_grad():
        torch.testing.assert_close(in_steps(model, x, 5), model(x), rtol=1e-4, atol=1e-5)


def test_a_step_in_training_says_that_no_gradient_passes_296(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_said", set())
    model = mixer("Mamba")
    with pytest.warns(errors.AnymambaWarning, match="no gradient passes"):
        in_steps(model, torch.randn(1, 4, 16), 2)
    monkeypatch.setattr(errors, "_said", set())
    with torch.no_grad():
        in_steps(model, torch.randn(1, 4, 16), 2)
    assert not errors._said


@pytest.mark.parametrize("length", [1, 7, 33, 130])
def test_gradients_where_the_length_fills_no_block_368(length: int) -> None:
    """With delta_softplus and delta_bias: steps past the end must decay nothing."""
    found = []
    for backend in ("reference", None):
        torch.manual_seed(1)
        u, delta = (torch.randn(2, 12, length).requires_grad_() for _ in range(2))
        A, bias = (-torch.rand(12, 4)).requires_grad_(), torch.randn(12).requires_grad_()
        B, C = (torch.randn(2, 4, length).requires_grad_() for _ in range(2))
        y = ops.selective_scan_fn(u, delta, A, B, C, None, None, bias, True, backend=backend)
        assert isinstance(y, torch.Tensor)
        found.append(torch.autograd.grad(y.square().sum(), (u, delta, A, B, C, bias)))
    for exact, ours in zip(*found):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())


def test_strong_decay_gives_finite_gradients_352_and_445() -> None:
    model = mixer("Mamba2")
    with torch.no_grad():
        model.dt_bias += 12
        model.A_log += 4
    x = torch.randn(2, 40, 16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        model(x).float().square().sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in model.parameters())]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
def test_segments_at_offset_0_are_said_641_and_739(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mamba_ssm.utils.generation import InferenceParams

    monkeypatch.setattr(errors, "_said", set())
    model, x = mixer(name), torch.randn(1, 8, 16)
    params = InferenceParams(max_seqlen=8, max_batch_size=1)
    with torch.no_grad():
        model(x[:, :4], inference_params=params)
        assert not errors._said
        with pytest.warns(errors.AnymambaWarning, match="make_cache"):
            model(x[:, 4:], inference_params=params)
        monkeypatch.setattr(errors, "_said", set())
        params.reset(8, 1)
        model(x, inference_params=params)
    assert not errors._said


def test_a_wrapper_that_changes_the_shape_is_named() -> None:
    """Where raw weights arrive from a program of somebody else's: its own module is called, and its result looked at."""
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x_proj, self.out_proj = nn.Linear(8, 6, bias=False), nn.Linear(8, 4, bias=False)

        def forward(self, xz: torch.Tensor) -> torch.Tensor:
            return mamba_inner_fn(
                xz, torch.ones(8, 1, 4), None, self.x_proj.weight, torch.ones(8, 2), self.out_proj.weight, None, -torch.ones(8, 2)
            )

    model, xz = Mixer(), torch.randn(2, 16, 5)
    plain = model(xz)
    handle = model.x_proj.register_forward_hook(lambda module, inputs, output: output * 2)
    assert not torch.allclose(model(xz), plain)
    handle.remove()
    model.out_proj.register_forward_hook(lambda module, inputs, output: output[..., :-1])
    with pytest.raises(errors.ArgumentError, match=r"out_proj returned shape \(2, 5, 3\), expected \(2, 5, 4\)"):
        model(xz)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
def test_biases_of_the_projections_in_training_37(name: str) -> None:
    """A tensor without contiguous memory ended the backward pass."""
    found = []
    for backend in ("reference", None):
        model = mixer(name, bias=True)
        x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with anymamba.use_backend(backend):
            model(x).square().sum().backward()
        found.append({**gradients(model), "x": x.grad})
    assert {"in_proj.bias", "out_proj.bias"} <= found[0].keys() == found[1].keys()
    for key, exact in found[0].items():
        torch.testing.assert_close(found[1][key], exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
def test_the_input_gets_gradients_through_the_gate_too_342_and_mamba_ssm_macos_7(name: str) -> None:
    """On the CPU, by the fused path as without it."""
    found = []
    for fast in (True, False):
        model = mixer(name, **{"use_fast_path" if name == "Mamba" else "use_mem_eff_path": fast})
        x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model.train()(x).square().sum().backward()
        assert x.grad is not None and x.grad.abs().sum() > 0
        found.append([x.grad, model.in_proj.weight.grad])  # the rows of z are the second half in Mamba, the first in Mamba2
    for fused, apart in zip(*found):
        torch.testing.assert_close(fused, apart, rtol=1e-4, atol=1e-4 * apart.abs().max().item())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_step_size_of_another_dtype_than_the_input_72(kind: torch.dtype) -> None:
    """``Expected delta.scalar_type() == input_type``: under autocast the two come from different layers."""
    torch.manual_seed(0)
    u, delta, B, C = torch.randn(2, 6, 11), torch.rand(2, 6, 11), torch.randn(2, 4, 11), torch.randn(2, 4, 11)
    A = -torch.rand(6, 4)
    exact = ops.selective_scan_fn(u.to(kind).float(), delta, A, B, C, backend="reference")
    mixed = ops.selective_scan_fn(u.to(kind), delta, A, B, C.to(kind))
    assert isinstance(exact, torch.Tensor) and isinstance(mixed, torch.Tensor) and mixed.dtype == kind
    torch.testing.assert_close(mixed.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
def test_fp16_autocast_with_a_loss_scale_transformers_33409_and_812(name: str) -> None:
    model = mixer(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x, losses = torch.randn(4, 20, 16), []
    for _ in range(12):
        with torch.autocast("cpu", torch.float16):
            loss = (model(x) - x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0] and all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("d_model", "headdim", "chunk"), [(18, 12, 256), (20, 8, 7), (14, 4, 1)])
def test_any_number_of_heads_and_chunk_size_352_353_and_mamba2_torch_2(d_model: int, headdim: int, chunk: int) -> None:
    """Upstream wants d_model * expand / headdim to be a multiple of 8, and its chunks to be powers of two of 16 and more."""
    from mamba_ssm import Mamba2

    found = []
    for backend in ("reference", None):
        torch.manual_seed(0)
        model, x = Mamba2(d_model, d_state=5, headdim=headdim, chunk_size=chunk), torch.randn(2, 23, d_model)
        with anymamba.use_backend(backend):
            model(x).square().sum().backward()
        found.append(gradients(model))
    for key, exact in found[0].items():
        torch.testing.assert_close(found[1][key], exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
def test_export_of_a_mixer_626_and_pytorch_130150(name: str) -> None:
    model, x = mixer(name).eval(), torch.randn(2, 9, 16)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_training_in_chunks_of_four_tokens_333() -> None:
    """Upstream's step has no gradient; here the model with a cache has, for whole chunks and for single tokens."""
    from tests.models import attached, test_attached

    model, reference = attached.build("mamba", "plain", training=True), attached.build("mamba", "plain", training=True)
    got = test_attached.fast(model, "none", [4, 4, 4])
    test_attached.compare(got, test_attached.slow(reference.double(), "none", [4, 4, 4]), 1e-5)


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "mamba2"])
def test_a_padded_batch_generates_what_each_text_generates_alone_transformers_31540(family: str) -> None:
    model = tiny_transformers.build(family).eval()
    texts = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(2))
    texts[0, :5], mask = 0, torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    both = model.generate(texts, attention_mask=mask, **options)[:, 12:]
    for row, start in ((0, 5), (1, 0)):
        alone = model.generate(texts[row : row + 1, start:], attention_mask=mask[row : row + 1, start:], **options)
        assert torch.equal(both[row], alone[0, -6:])
