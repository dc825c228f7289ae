"""mamba_ssm's classes multiply in 16 bits as our models do where torch would emulate it; their layers stay torch's, hooks and all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from anymamba.backends import matrix_units
from anymamba.ops import projection

pytestmark = pytest.mark.usefixtures("dropin")


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
def test_products_in_16_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mamba_ssm

    monkeypatch.setattr(matrix_units, "widens", lambda dtype: dtype in (torch.bfloat16, torch.float16))
    made: list[tuple[int, ...]] = []
    rows = projection._rows

    def counting(x: torch.Tensor, weight: torch.Tensor, *more: Any) -> torch.Tensor:
        made.append(tuple(weight.shape))
        return rows(x, weight, *more)

    monkeypatch.setattr(projection, "_rows", counting)
    torch.manual_seed(0)
    model = getattr(mamba_ssm, name)(16, **({} if name == "Mamba" else {"headdim": 8, "d_state": 8}))
    x = torch.randn(2, 9, 16)
    exact = model(x)
    assert type(model.in_proj) is nn.Linear and not made
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert tuple(model.in_proj.weight.shape) in made and tuple(model.out_proj.weight.shape) in made
    assert (found.float() - exact).norm() <= 0.03 * exact.norm()
    made.clear()
    model.in_proj.register_forward_hook(lambda module, inputs, output: 0 * output)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).abs().max() == 0
    assert tuple(model.in_proj.weight.shape) not in made
