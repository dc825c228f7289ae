"""mamba_split_conv1d_scan_combined: fused where a backend has it, composed of the other ops elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.ops.harness import Case, check, parametrize

from anymamba import ops
from anymamba.backends.opspec import Arguments, Build, Random
from anymamba.ops.ssd_split import build
from anymamba.reference import ssd_split as exact

OP = "mamba_split_conv1d_scan_combined"
MOST = ("conv1d_bias", "dt_bias", "D", "rmsnorm_weight", "outproj_weight", "outproj_bias")


def split(given: tuple[str, ...] = MOST, norm_before_gate: bool = True, D_per_channel: bool = False, **options: Any) -> Build:
    sizes = {"headdim": 6, "d_state": 8, "d_model": 5, "D_per_channel": D_per_channel, "norm_before_gate": norm_before_gate}
    whole = build(without=tuple({*MOST, "initial_states"} - set(given)), **{**sizes, **options})

    def inputs(random: Random) -> Arguments:
        arguments = whole(random)
        if D_per_channel:
            del arguments["headdim"]  # D says it
        return {**dict.fromkeys(("conv1d_bias", "dt_bias", "D")), **arguments}

    return inputs


CASES = [
    Case(OP, name, build, slack=2)
    for name, build in [
        ("everything", split((*MOST, "initial_states"), return_final_states=True)),
        ("norm-after-gate", split(norm_before_gate=False)),
        ("norm-before-gate", split(norm_before_gate=True)),
        ("gate-in-the-scan", split(("dt_bias", "D"), rmsnorm_eps=None)),
        ("nothing-optional", split((), activation=None)),
        ("no-projection", split(("dt_bias", "rmsnorm_weight"))),
        ("no-projection-bias", split(("dt_bias", "outproj_weight"))),
        ("D-per-channel", split(D_per_channel=True)),
        ("mlp-beside-it", split(d_nonssm=7)),
        ("mlp-beside-it-no-norm", split(("D",), d_nonssm=3, activation="swish")),
        ("dt-limit", split(dt_limit=(0.2, 0.9))),
        ("documents", split(documents=[0] * 9 + [1] * 20 + [-1] * 2 + [2] * 6, return_final_states=True)),
        ("one-group", split(ngroups=1, norm_before_gate=False)),
        ("length1", split(length=1)),
    ]
]


@parametrize(CASES)
def test_split(case: Case, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, backend, dtype, monkeypatch)


def built(**options: Any) -> dict[str, Any]:
    return split(**options)(lambda *shape: torch.randn(*shape))


def test_the_norm_is_grouped() -> None:
    """Scaling the scan's output in one group changes nothing in another, and nothing at all after the norm."""
    inputs = built(given=("rmsnorm_weight",), ngroups=2, activation=None, rmsnorm_eps=0.0)
    out = ops.mamba_split_conv1d_scan_combined(**inputs)
    louder = {**inputs, "conv1d_weight": inputs["conv1d_weight"].clone()}
    louder["conv1d_weight"][:12] *= 3.0  # the channels of x of the first two heads: group 0
    torch.testing.assert_close(ops.mamba_split_conv1d_scan_combined(**louder), out, rtol=1e-3, atol=1e-4)


def test_autocast_runs_the_projection_in_16_bits() -> None:
    inputs = built()
    inputs["zxbcdt"].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.mamba_split_conv1d_scan_combined(**inputs)
    assert out.dtype == torch.bfloat16
    want = ops.mamba_split_conv1d_scan_combined(**inputs)
    torch.testing.assert_close(out.float(), want, rtol=0.1, atol=0.05 * want.abs().max().item())
    out.float().sum().backward()
    assert inputs["zxbcdt"].grad.isfinite().all()


def test_reference_is_the_mixer_of_the_paper() -> None:
    """Against the parts written out, so that the order z, x, B, C, dt and the heads are pinned."""
    inputs = {n: v.double() if isinstance(v, torch.Tensor) else v for n, v in built(ngroups=1, length=9).items()}
    z, x, B, C, dt = inputs["zxbcdt"].split([24, 24, 8, 8, 4], dim=2)
    xBC = torch.cat([x, B, C], 2).mT
    weight, bias = inputs["conv1d_weight"], inputs["conv1d_bias"]
    xBC = F.silu(F.conv1d(F.pad(xBC, (3, 0)), weight[:, None], bias, groups=40)).mT
    x, B, C = xBC.split([24, 8, 8], dim=2)
    dt = F.softplus(dt + inputs["dt_bias"])
    state, outputs = torch.zeros(2, 4, 6, 8).double(), []
    for t in range(9):
        heads = x[:, t].view(2, 4, 6)
        state = (dt[:, t] * inputs["A"]).exp()[..., None, None] * state
        state = state + dt[:, t, :, None, None] * heads[..., None] * B[:, t, None, None]
        outputs.append(((state * C[:, t, None, None]).sum(-1) + inputs["D"][:, None] * heads).flatten(1))
    y = F.rms_norm(torch.stack(outputs, 1), (24,), inputs["rmsnorm_weight"], 1e-6) * F.silu(z)
    want = F.linear(y, inputs["outproj_weight"], inputs["outproj_bias"])
    torch.testing.assert_close(exact.mamba_split_conv1d_scan_combined(**inputs), want)


def test_nothing_to_do() -> None:
    out, final = ops.mamba_split_conv1d_scan_combined(**built(length=0, return_final_states=True))
    assert out.shape == (2, 0, 5) and final.shape == (2, 4, 6, 8) and not final.any()
