"""Every wrong argument is refused before any kernel runs, by an error that names the argument, what it is and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from anymamba import ops
from anymamba.backends import dispatch
from anymamba.backends.opspec import SPECS
from anymamba.errors import AnymambaError, ArgumentError, ArgumentTypeError, UnsupportedError


@pytest.fixture(autouse=True)
def no_kernel_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("a backend was chosen for a call with a bad argument")

    monkeypatch.setattr(dispatch, "_decide", refused)
    monkeypatch.setattr(dispatch, "verdict", refused)
    dispatch.forget()


def arguments(op: str) -> dict[str, Any]:
    """Good ones, in float32."""
    return SPECS[op].build()(lambda *shape: torch.randn(*shape))


def cut(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[..., :-1]


def given(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Sets arguments; a function is applied to the good value."""

    def change(inputs: dict[str, Any]) -> None:
        for name, value in values.items():
            inputs[name] = value(inputs.get(name)) if callable(value) else value

    return change


S, T, U = ArgumentError, ArgumentTypeError, UnsupportedError
INT = torch.ones(2, 37, dtype=torch.int32)
CONV, STEP, SCAN, SSU = "causal_conv1d_fn", "causal_conv1d_update", "selective_scan_fn", "selective_state_update"
SSD, INNER, SPLIT = "mamba_chunk_scan_combined", "mamba_inner_fn", "mamba_split_conv1d_scan_combined"
INDICES = torch.tensor([0, 2], dtype=torch.int32)

BAD: list[tuple[str, Callable[[dict[str, Any]], None], type[AnymambaError], list[str]]] = [
    (CONV, given(x=torch.randn(2, 20)), S, ["x", "(2, 20)", "(batch, dim, length)"]),
    (CONV, given(weight=torch.randn(19, 4)), S, ["weight", "(19, 4)", "(20, *)"]),
    (CONV, given(weight=torch.randn(20, 1, 4)), S, ["weight", "(20, 1, 4)", "(dim, width)"]),
    (CONV, given(weight=torch.randn(20, 0)), S, ["width", "0", ">= 1"]),
    (CONV, given(bias=cut), S, ["bias", "(19,)", "(20)"]),
    (CONV, given(seq_idx=INT[:, 1:]), S, ["seq_idx", "(2, 36)", "(2, 37)"]),
    (CONV, given(seq_idx=INT.float()), T, ["seq_idx", "float32", "int32"]),
    (CONV, given(seq_idx=INT, return_final_states=True), S, ["seq_idx", "return_final_states"]),
    (CONV, given(initial_states=torch.randn(2, 20, 4)), S, ["initial_states", "(2, 20, 4)", "(2, 20, 3)"]),
    (CONV, given(final_states_out=torch.randn(2, 20, 4)), S, ["final_states_out", "(2, 20, 4)", "(2, 20, 3)"]),
    (CONV, given(activation="gelu"), U, ["activation", "'gelu'", "'silu'"]),
    (CONV, given(x=lambda x: x.long()), T, ["x", "torch.int64", "floating"]),
    (CONV, given(x=None), T, ["x", "NoneType", "tensor"]),
    (CONV, given(weight=lambda w: w.numpy()), T, ["weight", "ndarray", "tensor"]),
    (CONV, given(weight=lambda w: w.to("meta")), T, ["weight", "meta", "cpu"]),
    (STEP, given(x=torch.randn(2)), S, ["x", "(2,)", "(batch, dim)"]),
    (STEP, given(conv_state=torch.randn(2, 20, 2)), S, ["conv_state", "(2, 20, 2)", "state_len >= 3"]),
    (STEP, given(conv_state=torch.randn(3, 20, 4)), S, ["conv_state", "(3, 20, 4)", "(2, 20, *)"]),
    (STEP, given(activation="relu"), U, ["activation", "'relu'"]),
    (STEP, given(cache_seqlens=torch.zeros(3, dtype=torch.int32)), S, ["cache_seqlens", "(3,)", "(2)"]),
    (STEP, given(conv_state_indices=INDICES), S, ["conv_state_indices", "2", "< 2"]),
    (STEP, given(conv_state_indices=INDICES.float()), T, ["conv_state_indices", "float32"]),
    (SCAN, given(u=torch.randn(2, 20)), S, ["u", "(2, 20)", "(batch, dim, length)"]),
    (SCAN, given(delta=cut), S, ["delta", "(2, 20, 36)", "(2, 20, 37)"]),
    (SCAN, given(A=torch.randn(20)), S, ["A", "(20,)", "(dim, d_state)"]),
    (SCAN, given(A=torch.randn(20, 0)), S, ["d_state", "0"]),
    (SCAN, given(B=cut), S, ["B", "(2, 16, 36)", "(2, 16, 37)"]),
    (SCAN, given(C=lambda C: C[:, None].expand(2, 3, 16, 37)), S, ["ngroups (C)", "3", "dim = 20"]),
    (SCAN, given(B=torch.randn(20, 15)), S, ["B", "(20, 15)", "(20, 16)"]),
    (SCAN, given(B=torch.randn(20, 16) + 1j), S, ["B.dtype", "complex64", "float32"]),
    (SCAN, given(A=lambda A: A + 1j), S, ["B", "(2, 16, 37)", "(2, 16, 74)"]),
    (SCAN, given(u=lambda u: u + 1j), T, ["u", "complex64", "real"]),
    (SCAN, given(D=cut), S, ["D", "(19,)", "(20)"]),
    (SCAN, given(z=cut), S, ["z", "(2, 20, 36)", "(2, 20, 37)"]),
    (SCAN, given(delta_bias=torch.randn(20, 1)), S, ["delta_bias", "(20, 1)", "(dim,)"]),
    (SCAN, given(initial_states=torch.randn(2, 20, 15)), S, ["initial_states", "(2, 20, 15)", "(2, 20, 16)"]),
    (SCAN, given(initial_states=torch.randn(2, 20, 16) + 1j), T, ["initial_states", "complex64", "real"]),
    (SCAN, given(seq_idx=INT[:, 1:]), S, ["seq_idx", "(2, 36)", "(2, 37)"]),
    (SCAN, given(seq_idx=INT.float()), T, ["seq_idx", "float32", "int32"]),
    (SCAN, given(cu_seqlens=INDICES), S, ["cu_seqlens", "(2,)", "batch = 2"]),
    (SSU, given(x=torch.randn(2, 4, 16, 1)), S, ["x", "(2, 4, 16, 1)"]),
    (SSU, given(state=torch.randn(3, 4, 16, 16)), S, ["state", "(3, 4, 16, 16)", "(2, 4, 16, *)"]),
    (SSU, given(dt=cut), S, ["dt", "(2, 4, 15)", "(2, 4, 16)"]),
    (SSU, given(A=cut), S, ["A", "(4, 16, 15)", "(4, 16, 16)"]),
    (SSU, given(B=cut), S, ["B", "(2, 2, 15)", "(2, *, 16)"]),
    (SSU, given(C=torch.randn(2, 3, 16)), S, ["ngroups (C)", "3", "nheads = 4"]),
    (SSU, given(D=torch.randn(4)), S, ["D", "(4,)", "(4, 16)"]),
    (SSU, given(dt_bias=torch.randn(4)), S, ["dt_bias", "(4,)", "(4, 16)"]),
    (SSU, given(z=cut), S, ["z", "(2, 4, 15)"]),
    (SSU, given(state_batch_indices=INDICES), S, ["state_batch_indices", "2", "< 2"]),
    (SSD, given(x=torch.randn(2, 37, 64)), S, ["x", "(2, 37, 64)", "(batch, length, nheads, headdim)"]),
    (SSD, given(dt=cut), S, ["dt", "(2, 37, 3)", "(2, 37, 4)"]),
    (SSD, given(A=torch.randn(4, 1)), S, ["A", "(4, 1)", "(nheads,)"]),
    (SSD, given(B=torch.randn(2, 37, 3, 24)), S, ["ngroups", "3", "nheads = 4"]),
    (SSD, given(C=cut), S, ["C", "(2, 37, 2, 23)", "(2, 37, 2, 24)"]),
    (SSD, given(D=torch.randn(3)), S, ["D", "(3,)", "(4, 16)"]),
    (SSD, given(z=cut), S, ["z", "(2, 37, 4, 15)"]),
    (SSD, given(dt_bias=cut), S, ["dt_bias", "(3,)"]),
    (SSD, given(initial_states=cut), S, ["initial_states", "(2, 4, 16, 23)", "(2, 4, 16, 24)"]),
    (SSD, given(seq_idx=INT[:1]), S, ["seq_idx", "(1, 37)", "(2, 37)"]),
    (SSD, given(seq_idx=INT.bool()), T, ["seq_idx", "bool"]),
    (SSD, given(chunk_size=0), S, ["chunk_size", "0"]),
    (SSD, given(dt_limit=(2.0, 1.0)), S, ["dt_limit", "(2.0, 1.0)", "low <= high"]),
    (SSD, given(dt_limit=(float("nan"), 1.0)), S, ["dt_limit", "nan"]),
    (SSD, given(dt_limit=0.1), S, ["dt_limit", "0.1"]),
    (SSD, given(return_varlen_states=True), S, ["return_varlen_states", "cu_seqlens None", "batch = 2"]),
    (INNER, given(xz=lambda xz: xz[:, 1:]), S, ["xz", "(2, 39, 37)", "(batch, 2 * dim, length)"]),
    (INNER, given(conv1d_weight=torch.randn(20, 4)), S, ["conv1d_weight", "(20, 4)", "(dim, 1, width)"]),
    (INNER, given(x_proj_weight=torch.randn(34, 20)), S, ["x_proj_weight", "(34, 20)", "(35, 20)"]),
    (INNER, given(delta_proj_weight=torch.randn(19, 3)), S, ["delta_proj_weight", "(19, 3)", "(20, *)"]),
    (INNER, given(out_proj_weight=torch.randn(10, 19)), S, ["out_proj_weight", "(10, 19)", "(*, 20)"]),
    (INNER, given(out_proj_bias=torch.randn(11)), S, ["out_proj_bias", "(11,)", "(10)"]),
    (INNER, given(b_rms_weight=torch.randn(15)), S, ["b_rms_weight", "(15,)", "(16)"]),
    (INNER, given(dt_rms_weight=torch.randn(3)), S, ["dt_rms_weight", "(3,)", "(20)"]),
    (INNER, given(checkpoint_lvl=2), S, ["checkpoint_lvl", "2"]),
    (SPLIT, given(zxbcdt=cut), S, ["zxbcdt", "(2, 37, 195)", "2 * d_nonssm + 196"]),
    (SPLIT, given(headdim=None), S, ["headdim", "None"]),
    (SPLIT, given(ngroups=3), S, ["ngroups", "3", "nheads = 4"]),
    (SPLIT, given(conv1d_weight=torch.randn(64, 4)), S, ["conv1d_weight", "(64, 4)", "dim = 64"]),
    (SPLIT, given(conv1d_bias=cut), S, ["conv1d_bias", "(127,)", "(128)"]),
    (SPLIT, given(rmsnorm_weight=cut), S, ["rmsnorm_weight", "(63,)", "(64)"]),
    (SPLIT, given(rmsnorm_eps=None), S, ["rmsnorm_eps", "None"]),
    (SPLIT, given(outproj_weight=cut), S, ["outproj_weight", "(20, 63)", "(*, 64)"]),
    (SPLIT, given(activation="tanh"), U, ["activation", "'tanh'"]),
    ("rms_norm_fn", given(weight=cut), S, ["weight", "(19,)", "(20)"]),
    ("rms_norm_fn", given(residual=cut), S, ["residual", "(2, 37, 19)", "(2, 37, 20)"]),
    ("rms_norm_fn", given(x=torch.tensor(1.0)), S, ["x", "()", "(..., dim)"]),
    ("layer_norm_fn", given(dropout_p=1.0), S, ["dropout_p", "1.0", "< 1"]),
    ("layer_norm_fn", given(rowscale=torch.randn(2, 36)), S, ["rowscale", "(2, 36)", "(2, 37)"]),
    ("layer_norm_fn", given(x1=torch.randn(2, 37, 19)), S, ["x1", "(2, 37, 19)"]),
    ("layer_norm_fn", given(weight1=torch.randn(19)), S, ["weight1", "(19,)"]),
    ("rmsnorm_fn", given(group_size=7), S, ["group_size", "7", "dim = 20"]),
    ("rmsnorm_fn", given(group_size=0), S, ["group_size", "0"]),
    ("layernorm_fn", given(z=cut), S, ["z", "(2, 37, 19)"]),
    ("layernorm_fn", given(bias=torch.randn(20).to("meta")), T, ["bias", "meta", "cpu"]),
]  # fmt: skip


@pytest.mark.parametrize("op,change,kind,words", BAD, ids=[f"{op}-{words[0]}-{i}" for i, (op, _, _, words) in enumerate(BAD)])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_refused(
    op: str, change: Callable[[dict[str, Any]], None], kind: type[AnymambaError], words: list[str], language: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("ANYMAMBA_LANG", language)
    inputs = arguments(op)
    change(inputs)
    with pytest.raises(kind) as caught:
        SPECS[op].function(**inputs)
    text = str(caught.value)
    assert text.startswith(op)
    assert text.isascii() == (language == "en")
    for word in words if language == "en" else words[:1]:
        assert word in text


def test_every_tensor_argument_must_be_on_one_device() -> None:
    for op in SPECS:
        good = arguments(op)
        first, *others = [name for name, value in good.items() if isinstance(value, torch.Tensor)]
        for name in others:
            with pytest.raises(ArgumentTypeError, match=f"{name} .*meta.*{first} on cpu"):
                getattr(ops, op)(**{**good, name: good[name].to("meta")})


def test_varlen_states_checks_its_borders() -> None:
    x = torch.randn(9, 3)
    for borders in ([0, 5, 4], [0, 10], [-1, 9]):
        with pytest.raises(ArgumentError, match="cu_seqlens"):
            ops.causal_conv1d_varlen_states(x, torch.tensor(borders), 3)
    with pytest.raises(ArgumentError, match="state_len"):
        ops.causal_conv1d_varlen_states(x, torch.tensor([0, 9]), -1)
    with pytest.raises(ArgumentTypeError, match="cu_seqlens"):
        ops.causal_conv1d_varlen_states(x, torch.tensor([0.0, 9.0]), 3)


def test_large_finite_steps_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sum overflows, they do not."""
    monkeypatch.undo()
    u = torch.randn(1, 2, 4)
    delta = torch.full((1, 2, 4), 3e38)
    out = ops.selective_scan_fn(u, delta, -torch.ones(2, 3), torch.zeros(1, 3, 4), torch.ones(1, 3, 4), backend="reference")
    assert out.shape == u.shape


def test_errors_are_also_the_standard_ones() -> None:
    """Callers of upstream's functions catch these."""
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(ArgumentTypeError, TypeError)
    assert issubclass(UnsupportedError, NotImplementedError)
