"""The Mamba-3 mixer of the drop-in: against its own formula token by token, decoding, packed sequences, state dict, language model."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

KINDS: dict[str, dict[str, Any]] = {
    "siso": {},
    "siso-all-pairs": {"rope_fraction": 1.0},
    "siso-two-groups": {"ngroups": 2},
    "siso-norm": {"is_outproj_norm": True},
    "mimo": {"is_mimo": True, "mimo_rank": 3},
    "mimo-two-groups": {"is_mimo": True, "mimo_rank": 2, "ngroups": 2},
    "mimo-norm": {"is_mimo": True, "mimo_rank": 3, "is_outproj_norm": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def mixer(kind: str, dtype: torch.dtype = torch.float64) -> Any:
    from mamba_ssm import Mamba3

    torch.manual_seed(0)
    made = Mamba3(16, d_state=8, headdim=8, chunk_size=8, layer_idx=0, **KINDS[kind]).to(dtype)
    if kind == "siso":
        made.a_activation = "softplus"  # of the release; the others have that of the main branch
    with torch.no_grad():
        for parameter in made.parameters():  # none may keep the ones and zeros it starts from
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def by_hand(made: Any, u: Tensor) -> Tensor:
    """The mixer from its parameters, one token after another: Mamba-3, section 3, with no op of ours."""
    heads, rank, groups, n, p = made.nheads, made.mimo_rank, made.num_bc_heads, made.d_state, made.headdim
    count, pairs_apart = made.num_rope_angles, made.is_mimo
    batch = u.shape[0]
    ones = torch.ones(heads, rank, p).to(u)
    up, gate, down = (made.mimo_x, made.mimo_z, made.mimo_o) if made.is_mimo else (ones,) * 3
    up, gate, down = (w.transpose(0, 1) for w in (up, gate, down))
    state, angle = u.new_zeros(batch, heads, p, n), u.new_zeros(batch, heads, count)
    k_last, v_last = u.new_zeros(batch, rank, heads, n), u.new_zeros(batch, heads, p)
    outputs = []

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def turn(x: Tensor) -> Tensor:
        first = range(count) if pairs_apart else range(0, 2 * count, 2)
        second = range(n // 2, n // 2 + count) if pairs_apart else range(1, 2 * count, 2)
        out = x.clone()
        for i, (a, b) in enumerate(zip(first, second)):
            cos, sin = angle[:, None, :, i].cos(), angle[:, None, :, i].sin()
            out[..., a], out[..., b] = x[..., a] * cos - x[..., b] * sin, x[..., a] * sin + x[..., b] * cos
        return out

    for t in range(u.shape[1]):
        row = F.linear(u[:, t], made.in_proj.weight)
        widths = [heads * p, heads * p, rank * groups * n, rank * groups * n, heads, heads, heads, count]
        z, x, B, C, dt, A, trap, angles = row.split(widths, dim=-1)
        z, x = z.view(batch, heads, p), x.view(batch, heads, p)
        B, C = (m.view(batch, rank, groups, n) for m in (B, C))
        k, q = norm(B, made.B_norm.weight), norm(C, made.C_norm.weight)
        k, q = (m.repeat_interleave(heads // groups, dim=2) for m in (k, q))
        dt = F.softplus(dt + made.dt_bias)
        rate = torch.where(A >= 0, 1 + A, 1 / (1 - A.clamp(max=0))) if made.a_activation == "heavy_tail" else F.softplus(A)
        a = torch.exp(torch.clamp(-rate, max=-made.A_floor) * dt)
        share = torch.sigmoid(trap)
        angle = angle + math.pi * angles[:, None].tanh() * dt[..., None]
        k, q = turn(k + made.B_bias.transpose(0, 1)), turn(q + made.C_bias.transpose(0, 1))
        old = torch.einsum("brhp,brhn->bhpn", v_last[:, None] * up, k_last)
        new = torch.einsum("brhp,brhn->bhpn", x[:, None] * up, k)
        state = a[..., None, None] * (state + ((1 - share) * dt)[..., None, None] * old) + (share * dt)[..., None, None] * new
        y = torch.einsum("bhpn,brhn->brhp", state, q) + made.D[:, None] * x[:, None] * up
        if made.is_outproj_norm:
            y = norm(y, made.norm.weight.view(heads, p))
        y = (y * F.silu(z[:, None] * gate) * down).sum(1)
        outputs.append(F.linear(y.flatten(1), made.out_proj.weight))
        k_last, v_last = k, x
    return torch.stack(outputs, dim=1)


@every_kind
def test_forward_and_gradients_are_those_of_the_formula(kind: str, dropin: None) -> None:
    made = mixer(kind)
    u = torch.randn(2, 19, 16).double().requires_grad_()
    leaves = [u, *made.parameters()]
    got, want = made(u), by_hand(made, u)
    torch.testing.assert_close(got, want)
    cotangent = torch.randn_like(want)
    for name, a, b in zip(
        ["u", *dict(made.named_parameters())], torch.autograd.grad(got, leaves, cotangent), torch.autograd.grad(want, leaves, cotangent)
    ):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_parameters_are_upstreams(dropin: None) -> None:
    shapes = {name: tuple(value.shape) for name, value in mixer("mimo-norm").state_dict().items()}
    width = 2 * 32 + 2 * 8 * 3 + 3 * 4 + 2
    assert shapes == {
        "dt_bias": (4,), "B_bias": (4, 3, 8), "C_bias": (4, 3, 8), "mimo_x": (4, 3, 8), "mimo_z": (4, 3, 8), "mimo_o": (4, 3, 8), "D": (4,),
        "in_proj.weight": (width, 16), "B_norm.weight": (8,), "C_norm.weight": (8,), "norm.weight": (32,), "out_proj.weight": (16, 32),
    }  # fmt: skip
    assert "mimo_x" not in mixer("siso").state_dict()
    assert "norm.weight" not in mixer("siso").state_dict()


def test_initial_values(dropin: None) -> None:
    from mamba_ssm import Mamba3

    made = Mamba3(64, headdim=8, is_mimo=True, dtype=torch.bfloat16)
    dt = F.softplus(made.dt_bias)
    assert made.dt_bias.dtype == made.B_bias.dtype == made.mimo_x.dtype == made.D.dtype == torch.float32
    assert made.in_proj.weight.dtype == torch.bfloat16
    assert dt.min() >= 0.001 - 1e-6
    assert dt.max() <= 0.1 + 1e-6
    assert made.dt_bias._no_weight_decay
    assert made.D._no_weight_decay
    for parameter, value in ((made.B_bias, 1), (made.C_bias, 1), (made.mimo_x, 0.25), (made.mimo_z, 1), (made.mimo_o, 0.25)):
        assert torch.equal(parameter, torch.full_like(parameter, value))


@every_kind
def test_prompt_then_steps_equals_the_whole(kind: str, dropin: None) -> None:
    from mamba_ssm.utils.generation import InferenceParams

    made, u = mixer(kind), torch.randn(2, 13, 16).double()
    with torch.no_grad():
        want = made(u)
        params = InferenceParams(max_seqlen=13, max_batch_size=2)
        parts = [made(u[:, :6], inference_params=params)]
        for t in range(6, 13):
            params.seqlen_offset = t
            parts.append(made(u[:, t : t + 1], inference_params=params))
    torch.testing.assert_close(torch.cat(parts, dim=1), want, rtol=1e-5, atol=1e-5)  # the states are kept in float32


@every_kind
def test_steps_from_nothing_equal_the_whole(kind: str, dropin: None) -> None:
    made, u = mixer(kind), torch.randn(2, 9, 16).double()
    states = made.allocate_inference_cache(2, 9)
    with torch.no_grad():
        outputs = [made.step(u[:, t], *states)[0] for t in range(9)]
        torch.testing.assert_close(torch.stack(outputs, dim=1), made(u), rtol=1e-5, atol=1e-5)
        out, *returned = made.step(u[:, :1], *states)
    assert out.shape == (2, 1, 16), "a token with its axis of length comes back with it"
    assert all(new is old for new, old in zip(returned, states))
    assert states[0].max() < 2 * math.pi


@every_kind
def test_packed_sequences_are_those_alone(kind: str, dropin: None) -> None:
    from mamba_ssm.utils.generation import InferenceParams

    made, u, borders = mixer(kind), torch.randn(1, 20, 16).double(), [0, 1, 8, 20]
    cu_seqlens = torch.tensor(borders, dtype=torch.int32)
    params = InferenceParams(max_seqlen=20, max_batch_size=3)
    with torch.no_grad():
        together = made(u, cu_seqlens=cu_seqlens)
        made(u, cu_seqlens=cu_seqlens, inference_params=params)
        for i, (first, end) in enumerate(zip(borders[:-1], borders[1:])):
            own = InferenceParams(max_seqlen=20, max_batch_size=1)
            alone = made(u[:, first:end], inference_params=own)
            torch.testing.assert_close(together[:, first:end], alone)
            for packed, single in zip(params.key_value_memory_dict[0], own.key_value_memory_dict[0]):
                torch.testing.assert_close(packed[i : i + 1], single)


def test_documents_are_kept_apart(dropin: None) -> None:
    made, u = mixer("siso"), torch.randn(2, 10, 16).double()
    seq_idx = torch.tensor([[0] * 4 + [1] * 6, [5] * 10])
    with torch.no_grad():
        found = made(u, seq_idx=seq_idx)
        for row, part in ((0, slice(0, 4)), (0, slice(4, 10)), (1, slice(0, 10))):
            torch.testing.assert_close(found[row : row + 1, part], made(u[row : row + 1, part]))


@pytest.mark.parametrize("kind", ["siso", "mimo"])
def test_half_precision_trains(kind: str, dropin: None) -> None:
    made = mixer(kind, torch.float32)
    u = torch.randn(2, 33, 16)
    want = made(u)
    half = copy.deepcopy(made).to(torch.bfloat16)
    got = half(u.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got - want).abs().max() < 0.05 * want.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made(u).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in made.parameters())


def test_pickle_and_deepcopy(dropin: None) -> None:
    made, u = mixer("mimo"), torch.randn(1, 5, 16).double()
    for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        torch.testing.assert_close(other(u), made(u))


def test_compile_is_one_graph(dropin: None) -> None:
    made, u = mixer("siso", torch.float32), torch.randn(2, 12, 16)
    torch._dynamo.reset()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(u), made(u))


@pytest.mark.parametrize("mimo", [False, True])
def test_language_model_generates_what_it_scores(mimo: bool, dropin: None, tmp_path: Path) -> None:
    """The cached decoding of upstream's Mamba-3 hands its step a token with one axis too many and fails; here it must give the
    tokens that the whole sequence gives."""
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.models.config_mamba import MambaConfig

    torch.manual_seed(0)
    ssm_cfg = {"layer": "Mamba3", "d_state": 16, "headdim": 16, "is_mimo": mimo, "mimo_rank": 2}
    config = MambaConfig(d_model=32, d_intermediate=48, n_layer=2, vocab_size=61, ssm_cfg=ssm_cfg)
    model = MambaLMHeadModel(config).eval()
    prompt = torch.randint(61, (2, 7))
    tokens = model.generate(prompt, max_length=15).clone()  # made in inference mode
    for length in range(7, 15):
        best = model(tokens[:, :length]).logits[:, -1].argmax(-1)
        assert torch.equal(best, tokens[:, length])
    model.save_pretrained(tmp_path)
    loaded = MambaLMHeadModel.from_pretrained(str(tmp_path)).eval()
    torch.testing.assert_close(loaded(prompt).logits, model(prompt).logits)


def test_calls_are_counted_and_reach_the_ops(dropin: None) -> None:
    from anymamba.dropin import counting

    counting.forget()
    mixer("siso")(torch.randn(1, 4, 16).double())
    mixer("mimo")(torch.randn(1, 4, 16).double())
    assert counting.called["mamba_ssm.ops.triton.mamba3.mamba3_siso_combined.mamba3_siso_combined"] == 1
    assert counting.called["mamba_ssm.ops.tilelang.mamba3.mamba3_mimo.mamba3_mimo"] == 1
    assert {op for op, _ in counting.served} >= {"mamba3_siso", "mamba3_mimo"}


def test_modules_that_others_look_for(dropin: None) -> None:
    """flash-linear-attention imports these four, and asks for them with find_spec."""
    import importlib
    import importlib.util

    for module, name in (
        ("triton.mamba3.mamba3_siso_combined", "mamba3_siso_combined"), ("triton.mamba3.mamba3_siso_step", "mamba3_siso_step"),
        ("triton.mamba3.mamba3_mimo_rotary_step", "apply_rotary_qk_inference_fwd"), ("tilelang.mamba3.mamba3_mimo", "mamba3_mimo"),
        ("cute.mamba3.mamba3_step_fn", "mamba3_step_fn"), ("triton.mamba3.angle_dt", "angle_dt_fwd"),
    ):  # fmt: skip
        assert importlib.util.find_spec(f"mamba_ssm.ops.{module}") is not None
        assert callable(getattr(importlib.import_module(f"mamba_ssm.ops.{module}"), name))


def test_step_function_and_its_reference(dropin: None) -> None:
    from mamba_ssm.ops.cute.mamba3.mamba3_step_fn import mamba3_step_fn, selective_state_update_fused_ref_v2

    batch, rank, heads, p, n = 2, 3, 4, 8, 16
    state, x, z, x_state = torch.randn(batch, heads, p, n), *(torch.randn(batch, heads, p) for _ in range(3))
    B, C, B_state = (torch.randn(batch, rank, heads, n) for _ in range(3))
    A, dt, trap, D = -torch.rand(batch, heads), torch.rand(batch, heads), torch.rand(batch, heads), torch.randn(heads)
    xproj, zproj, outproj = (torch.randn(rank, heads, p) for _ in range(3))
    out, new = selective_state_update_fused_ref_v2(state, A, B, C, xproj, x, zproj, z, dt, B_state, x_state, trap, D, outproj)
    got = torch.empty_like(x)
    assert mamba3_step_fn(state, B_state, x_state, A, B, C, D, x, dt, trap, xproj, outproj, None, got, z=z, zproj=zproj) is None
    torch.testing.assert_close(got, out)
    torch.testing.assert_close(state, new)


def test_gradient_of_running_angles(dropin: None) -> None:
    from mamba_ssm.ops.triton.mamba3.angle_dt import angle_dt_bwd, angle_dt_fwd

    angle, dt = torch.randn(2, 7, 3, 2, requires_grad=True), torch.rand(2, 3, 7, requires_grad=True)
    start = torch.zeros(2, 3, 2, requires_grad=True)
    out, last = angle_dt_fwd(angle, dt, start, return_output_state=True)
    grad_out, grad_last = torch.randn_like(out), torch.randn_like(last)
    want = torch.autograd.grad([out, last], [angle, dt, start], [grad_out, grad_last])
    for got, expected in zip(angle_dt_bwd(grad_out, angle, dt, True, grad_output_state=grad_last), want):
        torch.testing.assert_close(got, expected)
    assert angle_dt_bwd(grad_out, angle, dt)[2] is None
