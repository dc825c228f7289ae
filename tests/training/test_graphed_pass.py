"""The captured forward and backward pass: the same loss and gradients as step by step. On a GPU; elsewhere it says why not."""

from __future__ import annotations

import pytest
import torch

from anymamba.errors import AnymambaWarning
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size
from anymamba.training.loop import graphed_pass


def test_on_the_cpu_it_says_why_not() -> None:
    ok, why = graphed_pass.supports(LanguageModel(config_of_size("tiny", vocab_size=64)))
    assert not ok and "CUDA" in why


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_replayed_gradients_are_those_of_single_launches(family: str) -> None:
    device = torch.device("cuda")
    with device:
        model = LanguageModel(config_of_size("tiny", family, vocab_size=512))
    ids = torch.randint(512, (3, 4, 128), device=device)
    replayed = graphed_pass.GraphedPass(model, lambda: torch.autocast("cuda", torch.bfloat16))
    for parts in (ids[:1], ids):  # one batch, then the sum of three
        model.zero_grad(set_to_none=True)
        for part in parts:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(part, targets=part, normalizer=512.0).loss
            loss.backward()
        want = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad(set_to_none=True)
        for part in parts:
            got = replayed(part, part, 512.0)
            assert got is not None
        torch.testing.assert_close(got, loss.detach())
        for parameter, gradient in zip(model.parameters(), want):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
def test_after_a_capture_that_broke_off_the_device_works_on() -> None:
    device, calls = torch.device("cuda"), []
    with device:
        model = LanguageModel(config_of_size("tiny", vocab_size=512))
    ids = torch.randint(512, (2, 32), device=device)

    def autocast() -> torch.autocast:
        calls.append(torch.ones(1, device=device))
        if len(calls) == 3:  # after two passes that warm up
            calls[0].item()  # waits for the device, which no capture allows
        return torch.autocast("cuda", torch.bfloat16)

    with pytest.warns(AnymambaWarning, match="without a CUDA graph"):
        assert graphed_pass.GraphedPass(model, autocast)(ids, ids, 1.0) is None
    torch.randn(3, device=device)
    model(ids, targets=ids).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
