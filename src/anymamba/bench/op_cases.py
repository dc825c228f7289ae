"""Cases of single ops: CPU-sized against transformers and mambapy, CUDA-sized against mamba-ssm."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anymamba import ops
from anymamba.bench import official, peers
from anymamba.bench.cases import Case, Contender, Contest, Setting, Target
from anymamba.bench.gate import Gate, compare, outcome

_GATE_LENGTH, _GATE_BATCH, _GATE_CHANNELS = 130, 2, 96
"""The reference is slow: it gets a piece of the case. The whole of it is compared with plain PyTorch in float64."""


@dataclass(frozen=True)
class Inputs:
    """tensors: arguments by name. float32: those that stay float32 in half precision. differentiable: those with gradients."""

    tensors: dict[str, Any]
    differentiable: tuple[str, ...] = ()
    float32: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def on(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        wide = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
        return {
            name: value.to(device, wide if name in self.float32 else dtype) if isinstance(value, Tensor) else value
            for name, value in self.tensors.items()
        }


Make = Callable[[bool], Inputs]
"""The inputs in float32 on the CPU: all of them, or (True) a piece for the reference."""


def scan(batch: int, length: int, channels: int, d_state: int) -> Make:
    def make(piece: bool) -> Inputs:
        b, l, d = _piece(piece, batch, length, channels)
        rows = functools.partial(_rows, b, l)
        tensors = {
            "u": rows(d).transpose(1, 2),
            "delta": rows(d).transpose(1, 2),
            "A": -torch.arange(1, d_state + 1.0).repeat(d, 1),
            "B": rows(d_state).transpose(1, 2),
            "C": rows(d_state).transpose(1, 2),
            "D": torch.ones(d),
            "z": rows(d).transpose(1, 2),
            "delta_bias": torch.randn(d) - 4,
        }
        return Inputs(tensors, tuple(tensors), ("A", "D", "delta_bias"), {"delta_softplus": True})

    return make


def ssd(batch: int, length: int, heads: int, headdim: int, d_state: int) -> Make:
    def make(piece: bool) -> Inputs:
        b, l, h = _piece(piece, batch, length, heads, 4)
        tensors = {
            "x": _rows(b, l, h, headdim),
            "dt": _rows(b, l, h),
            "A": -torch.linspace(1, 16, h),
            "B": _rows(b, l, 1, d_state),
            "C": _rows(b, l, 1, d_state),
            "D": torch.ones(h),
            "z": _rows(b, l, h, headdim),
            "dt_bias": torch.randn(h) - 4,
        }
        options = {"chunk_size": 256, "dt_softplus": True}
        return Inputs(tensors, tuple(tensors), ("A", "D", "dt_bias"), options)

    return make


def conv(batch: int, length: int, channels: int, width: int, contiguous: str = "channels") -> Make:
    def make(piece: bool) -> Inputs:
        b, l, d = _piece(piece, batch, length, channels)
        x = _rows(b, l, d).transpose(1, 2) if contiguous == "channels" else _rows(b, d, l)
        tensors = {"x": x, "weight": torch.randn(d, width) / width**0.5, "bias": torch.randn(d)}
        return Inputs(tensors, tuple(tensors), options={"activation": "silu"})

    return make


def norm(batch: int, length: int, width: int) -> Make:
    def make(piece: bool) -> Inputs:
        b, l, _ = _piece(piece, batch, length, width)
        residual = _rows(b, l, width)
        tensors = {"x": _rows(b, l, width), "weight": torch.rand(width), "bias": None, "residual": residual}
        return Inputs(tensors, ("x", "weight", "residual"), options={"prenorm": True, "eps": 1e-5})

    return make


def gated_norm(batch: int, length: int, width: int) -> Make:
    def make(piece: bool) -> Inputs:
        b, l, _ = _piece(piece, batch, length, width)
        tensors = {"x": _rows(b, l, width), "weight": torch.rand(width), "bias": None, "z": _rows(b, l, width)}
        return Inputs(tensors, ("x", "weight", "z"), options={"norm_before_gate": False, "eps": 1e-5})

    return make


def update(batch: int, heads: int, headdim: int, d_state: int) -> Make:
    """heads 0: Mamba-1, headdim channels."""

    def make(piece: bool) -> Inputs:
        per_head = (heads, headdim) if heads else (headdim,)
        A = -torch.linspace(1, 16, heads)[:, None, None].expand(-1, headdim, d_state) if heads else None
        tensors = {
            "state": torch.randn(batch, *per_head, d_state),
            "x": torch.randn(batch, *per_head),
            "dt": torch.randn(batch, heads, 1).expand(-1, -1, headdim) if heads else torch.randn(batch, headdim),
            "A": -torch.arange(1, d_state + 1.0).repeat(headdim, 1) if A is None else A,
            "B": torch.randn(batch, *([1] if heads else []), d_state),
            "C": torch.randn(batch, *([1] if heads else []), d_state),
            "D": torch.ones(per_head),
            "z": torch.randn(batch, *per_head),
            "dt_bias": torch.randn(heads, 1).expand(-1, headdim) - 4 if heads else torch.randn(headdim) - 4,
        }
        return Inputs(tensors, float32=("state", "A", "D", "dt_bias"), options={"dt_softplus": True})

    return make


def conv_update(batch: int, channels: int, width: int) -> Make:
    def make(piece: bool) -> Inputs:
        tensors = {
            "x": torch.randn(batch, channels),
            "conv_state": torch.randn(batch, channels, width - 1),
            "weight": torch.randn(channels, width),
            "bias": torch.randn(channels),
        }
        return Inputs(tensors, options={"activation": "silu"})

    return make


def _piece(piece: bool, batch: int, length: int, channels: int, most: int = _GATE_CHANNELS) -> tuple[int, int, int]:
    if not piece:
        return batch, length, channels
    return min(batch, _GATE_BATCH), min(length, _GATE_LENGTH), min(channels, most)


def _rows(*shape: int) -> Tensor:
    return torch.randn(*shape)


def contest(op: str, make: Make, dtype: torch.dtype, mode: str, setting: Setting) -> Contest:
    """mode: "forward", "forward+backward" or "backward"."""
    function = getattr(ops, op)
    ours = functools.partial(function, backend=setting.backend)
    torch.manual_seed(0)
    whole = make(False)
    given = whole.on(setting.device, dtype)
    contenders: dict[str, Callable[[], Contender] | str] = {}
    for name, peer in peers.of_op(op, setting.device).items():
        made: Any = peer if isinstance(peer, str) else functools.partial(_contender, peer, given, whole, mode)
        contenders[name] = made
    gate = functools.partial(_gate, function, setting, make, dtype, mode)
    scanning = op == "selective_scan_fn"
    slow = peers.slow(setting.device, scanning, backward=mode != "forward")
    return Contest(_contender(ours, given, whole, mode), gate, contenders, slow=slow)


def _contender(function: Callable[..., Any], given: dict[str, Any], inputs: Inputs, mode: str) -> Contender:
    call = functools.partial(function, **inputs.options)
    if mode == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return call(**given)

        return Contender(forward)
    leaves = {name: given[name].detach().requires_grad_() for name in inputs.differentiable}

    def run_forward() -> list[Tensor]:
        out = call(**{**given, **leaves})
        return [part for part in (out if isinstance(out, tuple) else (out,)) if part.requires_grad]

    outputs = run_forward()
    cotangents = [torch.randn_like(part) for part in outputs]
    if mode == "backward":
        return Contender(lambda: torch.autograd.grad(outputs, list(leaves.values()), cotangents, retain_graph=True))
    outputs = []
    return Contender(lambda: torch.autograd.grad(run_forward(), list(leaves.values()), cotangents))


def _gate(function: Callable[..., Any], setting: Setting, make: Make, dtype: torch.dtype, mode: str) -> Gate:
    """A piece against the reference, then the whole case against plain PyTorch in float64."""
    verdict = Gate(False, "")
    for piece, exact_backend in ((True, "reference"), (False, "torch")):
        torch.manual_seed(1 if piece else 0)
        inputs = make(piece)
        names = () if mode == "forward" else inputs.differentiable
        given = inputs.on(setting.device, dtype)
        has_float64 = setting.device.type != "mps" and not piece
        device = setting.device if has_float64 else torch.device("cpu")
        exact_inputs = {n: v.to(device, torch.float64) if isinstance(v, Tensor) else v for n, v in given.items()}

        def run(backend: str | None, values: Any, op: Any, exact: Any, options: Any = inputs.options, names: Any = names) -> Any:
            with torch.set_grad_enabled(bool(names)):
                return outcome(functools.partial(op, **options, backend=backend), values, names, exact)

        exact = run(exact_backend, exact_inputs, function, None)
        narrow = _multiplied_in_half(function, dtype)
        plain = run("torch", given, _gated_apart(function) if narrow else function, exact)
        verdict = compare(run(setting.backend, given, function, exact), plain, exact, dtype if narrow else None)
        if not verdict.ok:
            return verdict
    return verdict


def _multiplied_in_half(function: Callable[..., Any], dtype: torch.dtype) -> bool:
    """Do the op's products take operands of 16 bits, as a matrix unit wants them. Then plain PyTorch in the same dtype is not the torch
    backend, which computes in float32 throughout: it is what a user writes, ``scan(x) * silu(z)``, where the gradient of the scan's
    output is rounded to 16 bits; and gradients in float32 are results of 16-bit products."""
    return function is ops.mamba_chunk_scan_combined and dtype in (torch.bfloat16, torch.float16)


def _gated_apart(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*, z: Tensor, **given: Any) -> Tensor:
        return function(**given) * F.silu(z)

    return call


_FP32, _BF16 = torch.float32, torch.bfloat16


def cases() -> Iterator[Case]:
    yield from _cpu_cases()
    yield from _cuda_cases()


def _case(device_type: str, op: str, what: str, make: Make, dtype: torch.dtype, mode: str, **more: Any) -> Case:
    short = {_FP32: "fp32", _BF16: "bf16"}[dtype]
    name = f"{op}/{what}-{short}/{mode}"
    return Case(name, device_type, functools.partial(contest, op, make, dtype, mode), **more)


def _cpu_cases() -> Iterator[Case]:
    both = "forward", "forward+backward"
    sequential, pscan = peers.TRANSFORMERS, peers.MAMBAPY
    targets = {
        "forward": (Target(sequential, 1 / 60), Target(pscan, 1 / 90)),
        "forward+backward": (Target(pscan, 1 / 100),),
    }
    for mode in both:
        for dtype in (_FP32, _BF16):
            asked = targets[mode] if dtype == _FP32 else ()
            yield _case("cpu", "selective_scan_fn", "B1-L2048-D1536-N16", scan(1, 2048, 1536, 16), dtype, mode, targets=asked)
            yield _case("cpu", "mamba_chunk_scan_combined", "B1-L2048-H24-P64-N128", ssd(1, 2048, 24, 64, 128), dtype, mode)
            yield _case("cpu", "causal_conv1d_fn", "B1-L2048-D1536-W4", conv(1, 2048, 1536, 4), dtype, mode)
            yield _case("cpu", "rms_norm_fn", "B1-L2048-D768", norm(1, 2048, 768), dtype, mode)
            yield _case("cpu", "rmsnorm_fn", "B1-L2048-D1536", gated_norm(1, 2048, 1536), dtype, mode)
        yield _case("cpu", "selective_scan_fn", "B1-L512-D1536-N16", scan(1, 512, 1536, 16), _FP32, mode, quick=True)
        make = ssd(1, 512, 24, 64, 128)
        yield _case("cpu", "mamba_chunk_scan_combined", "B1-L512-H24-P64-N128", make, _FP32, mode, quick=True)
        yield _case("cpu", "causal_conv1d_fn", "B1-L512-D1536-W4", conv(1, 512, 1536, 4), _FP32, mode, quick=True)
        yield _case("cpu", "rms_norm_fn", "B1-L512-D768", norm(1, 512, 768), _FP32, mode, quick=True)
    for dtype in (_FP32, _BF16):
        quick = dtype == _FP32
        yield _case("cpu", "selective_state_update", "B1-D1536-N16", update(1, 0, 1536, 16), dtype, "forward", quick=quick)
        yield _case("cpu", "selective_state_update", "B1-H24-P64-N128", update(1, 24, 64, 128), dtype, "forward", quick=quick)
        yield _case("cpu", "causal_conv1d_update", "B1-D1536-W4", conv_update(1, 1536, 4), dtype, "forward", quick=quick)


def _cuda_cases() -> Iterator[Case]:
    for index, mode in enumerate(("forward", "backward")):
        # the "must" column: times of mamba-ssm divided by ours
        ssd_gain, conv_gain = (1.2, 1.0) if mode == "forward" else (1.5, 1.3)
        for (b, l, d, n), times in official.SCAN.items():
            more = _official(times[index], 1.5)
            quick = b == 1 and d == 1536
            yield _case("cuda", "selective_scan_fn", f"B{b}-L{l}-D{d}-N{n}", scan(b, l, d, n), _BF16, mode, quick=quick, **more)
        for (b, l, h, p, n), times in official.SSD.items():
            more = _official(times[index], ssd_gain)
            what = f"B{b}-L{l}-H{h}-P{p}-N{n}"
            yield _case("cuda", "mamba_chunk_scan_combined", what, ssd(b, l, h, p, n), _BF16, mode, quick=h == 32, **more)
        for contiguous, times in official.CONV.items():
            more = _official(times[index], conv_gain) if contiguous == "channels" else {"official_ms": times[index]}
            make = conv(8, 2048, 5120, 4, contiguous)
            what = f"B8-L2048-D5120-W4-{contiguous}-contiguous"
            yield _case("cuda", "causal_conv1d_fn", what, make, _BF16, mode, quick=True, **more)
        yield _case("cuda", "rms_norm_fn", "B8-L2048-D2560", norm(8, 2048, 2560), _BF16, mode)
        yield _case("cuda", "rmsnorm_fn", "B8-L2048-D5120", gated_norm(8, 2048, 5120), _BF16, mode)
    for batch in (1, 64):
        yield _case("cuda", "selective_state_update", f"B{batch}-D5120-N16", update(batch, 0, 5120, 16), _BF16, "forward")
        yield _case("cuda", "selective_state_update", f"B{batch}-H80-P64-N128", update(batch, 80, 64, 128), _BF16, "forward")
        yield _case("cuda", "causal_conv1d_update", f"B{batch}-D5120-W4", conv_update(batch, 5120, 4), _BF16, "forward")


def _official(milliseconds: float, gain: float) -> dict[str, Any]:
    return {"official_ms": milliseconds, "targets": (Target(peers.OFFICIAL_H100, 1 / gain),)}
