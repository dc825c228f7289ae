"""Public reports about mamba_ssm, tried under the drop-in. Numbers are those of state-spaces/mamba unless said otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from anymamba import errors, ops
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
