"""What the ops may launch on a GPU that is not here: every plan that a rule can give, and every option of the ops' own test cases.

Nothing is listed by hand that a rule could change. ``plan_calls`` asks the plans for a wide range of sizes, on the GPU at hand, and
takes one size of each plan that leads to another compilation. ``option_calls`` runs the cases of tests/ops through the dispatcher.
Both record launches instead of making them; sizes cost nothing, because tensors of the former are on the meta device.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from tests.backends.triton import ahead_of_time
from tests.ops import harness
from torch import Tensor

import anymamba.ops  # noqa: F401 - it registers the specs
from anymamba.backends import dispatch, selfcheck
from anymamba.backends import triton as package
from anymamba.backends.call import MANY_HEADS, Call
from anymamba.backends.triton import cross_entropy, launch
from anymamba.backends.triton.conv import causal_conv1d as conv
from anymamba.backends.triton.conv import causal_conv1d_rows as conv_rows
from anymamba.backends.triton.mamba3 import scan as mamba3
from anymamba.backends.triton.mamba3 import state_update as mamba3_state_update
from anymamba.backends.triton.norm import norm, norm_gated
from anymamba.backends.triton.scan import selective_scan, selective_state_update
from anymamba.backends.triton.ssd import ssd
from anymamba.errors import BackendError

PROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "sm_120": 170, "gfx942": 304, "gfx1100": 96}

CASES = {
    "causal_conv1d": ("CASES", "STEPS"),
    "selective_scan": ("CASES",),
    "selective_state_update": ("CASES",),
    "ssd": ("CASES",),
    "mamba3": ("CASES",),
    "mamba3_mimo": ("CASES",),
    "mamba3_state_update": ("CASES",),
    "norm": ("CASES", "GATED_CASES"),
    "cross_entropy": ("CASES",),
}
"""Files of tests/ops and their lists of cases."""


@contextlib.contextmanager
def on(target: str, monkeypatch: Any) -> Iterator[list[ahead_of_time.Launch]]:
    """The facts about a device are those of the target, wherever a module of the backend has taken their functions to; launches
    are recorded."""
    hip = target.startswith("gfx")
    facts: dict[str, Callable[[Any], Any]] = {
        "processors": lambda device: PROCESSORS[target],
        "is_nvidia": lambda device: not hip,
        "shared_memory": lambda device: ahead_of_time.SHARED_MEMORY[target],
        "lanes": lambda device: 64 if target == "gfx942" else 32,
        "matrix_unit_for_float32": lambda device: not hip or target == "gfx942",
    }
    with monkeypatch.context() as patch:
        for name in modules():
            module = importlib.import_module(name)
            for fact, answer in facts.items():
                if getattr(module, fact, None) is getattr(launch, fact) and module is not launch:
                    patch.setattr(module, fact, answer)
        for fact, answer in facts.items():
            patch.setattr(launch, fact, answer)
        patch.setattr(ssd, "_precision", lambda x: "ieee" if hip else "tf32x3")
        patch.setattr(mamba3, "precision", lambda x: "ieee" if hip else "tf32x3")
        with ahead_of_time.launches() as found:
            yield found


@functools.cache
def modules() -> tuple[str, ...]:
    """Those of the backend that its ops are made of."""
    for name in package.OPS.values():
        importlib.import_module(name)
    return tuple(found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."))


def option_calls(name: str, dtype: torch.dtype, monkeypatch: Any) -> None:
    """Every case of a file of tests/ops, forward and backward, through the public op with this backend chosen."""
    monkeypatch.setattr(launch, "interpreted", lambda: True)
    monkeypatch.setattr(selfcheck, "passed", lambda *_: (True, "nothing runs here"))
    file = importlib.import_module(f"tests.ops.test_{name}")
    for case in itertools.chain.from_iterable(getattr(file, each) for each in CASES[name]):
        dispatch.forget()
        try:
            harness._run(case, functools.partial(case.spec.function, backend="triton"), dtype, torch.device("cpu"))
        except BackendError as error:
            # what supports() turns away is not launched; the interpreter test says which cases these are
            if harness._crashed(error):
                raise
    dispatch.forget()


def _rows(batch: int, width: int, length: int, dtype: torch.dtype, grad: bool) -> Tensor:
    return torch.empty(batch, length, width, dtype=dtype, device="meta").transpose(1, 2).requires_grad_(grad)


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _backward(*outputs: Tensor | None) -> None:
    given = [out for out in outputs if out is not None and out.requires_grad]
    torch.autograd.backward(given, [torch.empty_like(out) for out in given])


def conv_calls(dtype: torch.dtype) -> Iterator[tuple[Any, Callable[[], None]]]:
    def run(channels: int, width: int, options: bool) -> None:
        x = _rows(2, channels, 512, dtype, True)
        bias = _empty(channels, dtype=dtype) if options else None
        _backward(conv.causal_conv1d_fn(x, _empty(channels, width, dtype=dtype), bias, activation="silu" if options else None))

    def along(channels: int, length: int, width: int, options: bool) -> None:
        x = _empty(2, channels, length, dtype=dtype).requires_grad_()
        bias = _empty(channels, dtype=dtype) if options else None
        _backward(conv.causal_conv1d_fn(x, _empty(channels, width, dtype=dtype), bias, activation="silu" if options else None))

    def update(channels: int, width: int, options: bool) -> None:
        state = _empty(2, channels, width - 1 if options else width + 3, dtype=dtype)
        bias = _empty(channels, dtype=dtype) if options else None
        x = _empty(2, channels, dtype=dtype)
        conv.causal_conv1d_update(x, state, _empty(channels, width, dtype=dtype), bias, "silu" if options else None)

    for channels in (3, 16, 20, 32, 64, 128, 256, 512, 768, 1536, 5120):
        plans = [conv.conv_plan(2, channels, 512, torch.device("meta"), backward=grad) for grad in (False, True)]
        key = tuple((plan.block, plan.tile, plan.warps) for plan in plans), channels % 16 == 0
        yield ("sequence", key, 4), functools.partial(run, channels, 4, True)
        yield ("step", min(channels, 128), 4), functools.partial(update, channels, 4, True)
    for channels, length in itertools.product((3, 1536), (2, 33, 512, 1023, 2050, 2052)):
        x = _empty(2, channels, length, dtype=dtype)
        rules = [conv_rows.rows_plan(x, grad) for grad in (False, True)]
        key = tuple((plan.block, plan.rows, plan.tile, plan.warps) for plan in rules), conv_rows._unit(8, x), channels
        yield ("along", key, 4), functools.partial(along, channels, length, 4, True)
    for width in range(1, conv.LARGEST_WIDTH + 1):
        for options in (False, True):
            yield ("along", "width", width, options), functools.partial(along, 1536, 512, width, options)
            yield ("sequence", "width", width, options), functools.partial(run, 1536, width, options)
            if width > 1:
                yield ("step", "width", width, options), functools.partial(update, 1536, width, options)


def scan_calls(dtype: torch.dtype) -> Iterator[tuple[Any, Callable[[], None]]]:
    def run(batch: int, channels: int, length: int, states: int, options: bool) -> None:
        u, delta, z = (_rows(batch, channels, length, dtype, True) for _ in range(3))
        B, C = (_rows(batch, states, length, dtype, True) for _ in range(2))
        channel = _empty(channels) if options else None
        selected: Any = selective_scan.selective_scan_fn(
            u, delta, _empty(channels, states), B, C, channel, z if options else None, channel, options, options
        )
        _backward(selected[0] if options else selected)
        # what upstream's op does not have, alone and together
        state = _empty(batch, channels, states).requires_grad_()
        ids = torch.empty(batch, length, dtype=torch.int32, device="meta")
        for beyond in ((state, ids),) if options else ((state, None), (None, ids)):
            out: Any = selective_scan.selective_scan_fn(
                u, delta, _empty(channels, states), B, C, channel, z if options else None, channel, options, False, *beyond
            )
            _backward(out)

    device = torch.device("meta")
    for states, channels, length, batch in itertools.product(
        (1, 4, 5, 8, 16, 32, 64, 128, 256), (3, 24, 1536, 2048), (1, 37, 2048), (1, 8)
    ):
        forward = selective_scan.forward_plan(batch, channels, length, states, device)
        backward = selective_scan.backward_plan(batch, channels, length, states, device)
        key = tuple(
            (*(plan.block_n, plan.block_d, plan.warps, plan.tile, plan.every, plan.dot), plan.chunks > 1, length % plan.every == 0)
            for plan in (forward, backward)
        )
        full = channels % forward.block_d == 0
        yield (states, full, *key), functools.partial(run, batch, channels, length, states, True)
        yield (states, full, *key, "bare"), functools.partial(run, batch, channels, length, states, False)


def update_calls(dtype: torch.dtype) -> Iterator[tuple[Any, Callable[[], None]]]:
    def run(headdim: int, states: int, options: bool, tied: bool) -> None:
        heads = 24
        x = _empty(2, heads, headdim, dtype=dtype)
        head = _empty(heads)
        dt = head.to(dtype)[None, :, None].expand(2, heads, headdim) if tied else x
        A = head[:, None, None].expand(heads, headdim, states) if tied else _empty(heads, headdim, states)
        bias = (head[:, None].expand(heads, headdim) if tied else _empty(heads, headdim)) if options else None
        B = _empty(2, 1, states, dtype=dtype)
        selective_state_update.selective_state_update(
            _empty(2, heads, headdim, states), x, dt, A, B, B, bias, x if options else None, bias, options
        )

    for headdim, states, options, tied in itertools.product((1, 5, 32, 64, 128, 1536), (1, 7, 16, 64, 128, 256), *2 * [(False, True)]):
        yield (headdim, states, options, tied), functools.partial(run, headdim, states, options, tied)


def ssd_calls(dtype: torch.dtype) -> Iterator[tuple[Any, Callable[[], None]]]:
    def run(batch: int, length: int, heads: int, groups: int, headdim: int, states: int, options: bool, grad: bool) -> None:
        wide = _empty(batch, length, heads * headdim + 2 * groups * states, dtype=dtype).requires_grad_(grad)
        x, B, C = wide.split([heads * headdim, groups * states, groups * states], dim=2)
        x = x.unflatten(2, (heads, headdim))
        B, C = (t.unflatten(2, (groups, states)) for t in (B, C))
        head = _empty(heads) if options else None
        given: dict[str, Any] = {}
        if options:
            given = {
                "z": x,
                "initial_states": _empty(batch, heads, headdim, states),
                "seq_idx": torch.empty(batch, length, dtype=torch.int32, device="meta"),
                "dt_limit": (0.1, 1.0),
                "return_final_states": True,
            }
        out: Any = ssd.mamba_chunk_scan_combined(
            x, _empty(batch, length, heads, dtype=dtype), _empty(heads), B, C, 256, D=head, dt_bias=head, dt_softplus=options, **given
        )
        if grad:
            _backward(*(out if options else (out,)))

    device = torch.device("meta")
    for headdim, states, (heads, groups), (batch, length) in itertools.product(
        (64, 32, 16, 80, 128), (128, 64, 16, 24, 256), ((80, 1), (24, 1), (64, 8)), ((8, 2048), (1, 2048), (64, 4096), (1, 9))
    ):
        sizes = batch, length, heads, heads // groups, headdim, states, dtype == torch.float32, device
        for grad, rule in ((False, ssd.forward_plan), (True, ssd.backward_plan)):
            plan = tuple(value for name, value in vars(rule(*sizes)).items() if name != "heads")
            for options in (True, False) if (headdim, states) in ((64, 128), (80, 24)) else (True,):
                call = functools.partial(run, batch, length, heads, groups, headdim, states, options, grad)
                yield (headdim, states, grad, plan, options), call


def mamba3_calls(dtype: torch.dtype) -> Iterator[tuple[Any, Callable[[], None]]]:
    def run(rank: int, batch: int, heads: int, groups: int, headdim: int, states: int, options: bool, grad: bool) -> None:
        length, device = 2048, torch.device("meta")
        values = _empty(batch, length, heads, headdim, dtype=dtype).requires_grad_()
        by_rank = (rank,) if rank > 1 else ()
        q, k = (_empty(batch, length, *by_rank, groups, states, dtype=dtype).requires_grad_() for _ in range(2))
        scalars = [_empty(batch, length, heads, dtype=kind).mT.requires_grad_() for kind in (torch.float32, torch.float32, dtype)]
        biases = [_empty(heads, *by_rank, states) for _ in range(2)]
        angles = _empty(batch, length, 1, states // 4).expand(-1, -1, heads, -1).requires_grad_()
        D, Z = (_empty(heads), values) if options else (None, None)
        if rank > 1:
            up, gate, down = (_empty(heads, rank, headdim) for _ in range(3))
            projections = (up, gate if options else None, down if options else None)
            out: Any = mamba3.mamba3_mimo(q, k, values, *scalars, *biases, *projections, angles, D, Z, 16, 4, None, options)
        else:
            shapes = (batch, heads, states // 4), (batch, heads, headdim, states), (batch, heads, states), (batch, heads, headdim)
            first: Any = tuple(_empty(*shape) for shape in shapes) if options else (None,) * 4
            packed = torch.empty(3, dtype=torch.int32, device=device) if options and batch == 1 else None
            if packed is not None:
                first = tuple(torch.cat([state] * 2) for state in first)
            out = mamba3.mamba3_siso(q, k, values, *scalars, *biases, angles, D, Z, *first, 64, options, packed)
        if grad:
            _backward(*(out if options else (out,)))

    device = torch.device("meta")
    tiles = (64, 128), (64, 64), (32, 64), (16, 16), (80, 24), (128, 128), (128, 16)
    for rank, (headdim, states), (batch, heads, groups) in itertools.product((1, 2, 4, 8), tiles, ((8, 32, 1), (1, 64, 1), (1, 24, 8))):
        sizes = rank, headdim, states, dtype == torch.float32
        few = batch * heads < MANY_HEADS
        grad = mamba3.supports(Call("mamba3_siso", torch.device("cuda"), dtype, True, sizes=(("d_state", states), ("headdim", headdim))))[0]
        for options in (True, False) if (headdim, states) == (64, 128) and rank in (1, 4) else (True,):
            plans = mamba3.forward_plan(*sizes, few, options, device), mamba3.backward_plan(*sizes, device)
            call = functools.partial(run, rank, batch, heads, groups, headdim, states, options, grad)
            yield (rank, headdim, states, plans, options, batch == 1), call


def mamba3_update_calls(dtype: torch.dtype) -> Iterator[tuple[Any, Callable[[], None]]]:
    def run(rank: int, headdim: int, states: int, options: bool) -> None:
        batch, heads = 2, 24
        keys = [_empty(batch, rank, heads, states, dtype=dtype) for _ in range(3)]
        values = [_empty(batch, heads, headdim, dtype=dtype) for _ in range(3)]
        scalars = [_empty(batch, heads) for _ in range(3)]
        up, gate, down = (_empty(rank, heads, headdim) for _ in range(3))
        state = _empty(batch, heads, headdim, states)
        last, A, D = values[0], scalars[0], _empty(heads) if options else None
        extras = (down, values[2], gate) if options else (None, None, None)
        mamba3_state_update.mamba3_state_update(state, keys[0], last, A, *keys[1:], D, values[1], *scalars[1:], up, *extras)

    for rank, (headdim, states), options in itertools.product((1, 2, 4, 8), ((64, 128), (32, 64), (80, 24), (5, 10)), (True, False)):
        yield (rank, headdim, states, options), functools.partial(run, rank, headdim, states, options)


def norm_calls(dtype: torch.dtype) -> Iterator[tuple[Any, Callable[[], None]]]:
    def plain(width: int, residual: bool, rms: bool) -> None:
        x = _empty(64, width, dtype=dtype).requires_grad_()
        given = _empty(64, width) if residual else None
        out: Any = norm.layer_norm_fn(x, _empty(width), None if rms else _empty(width), given, prenorm=residual, is_rms_norm=rms)
        _backward(*(out if residual else (out,)))

    def gated(width: int, group: int, first: bool, rms: bool) -> None:
        x, z = (_empty(64, width, dtype=dtype).requires_grad_() for _ in range(2))
        bias = None if rms else _empty(width)
        _backward(norm_gated.layernorm_fn(x, _empty(width), bias, z, 1e-5, group, first, rms))

    for width, one, other in itertools.product((1, 20, 64, 256, 512, 768, 1024, 1536, 2560, 4096, 5120, 8192), *2 * [(False, True)]):
        yield ("plain", width, one, other), functools.partial(plain, width, one, other)
        yield ("gated", width, one, other), functools.partial(gated, width, width, one, other)


def cross_entropy_calls(dtype: torch.dtype) -> Iterator[tuple[Any, Callable[[], None]]]:
    def run(vocabulary: int, slope: bool) -> None:
        targets = torch.empty(64, dtype=torch.int64, device="meta")
        cross_entropy.log_softmax_and_slope(_empty(64, vocabulary, dtype=dtype), targets, slope)

    for vocabulary, slope in itertools.product((1, 2, 20, 256, 1024, 4096, 8192, 50277, 50280, 50288, 128256, 300_000), (False, True)):
        yield (vocabulary, slope), functools.partial(run, vocabulary, slope)


PLANS: dict[str, Callable[[torch.dtype], Iterator[tuple[Any, Callable[[], None]]]]] = {
    "causal_conv1d": conv_calls,
    "selective_scan": scan_calls,
    "selective_state_update": update_calls,
    "ssd": ssd_calls,
    "mamba3": mamba3_calls,
    "mamba3_state_update": mamba3_update_calls,
    "norm": norm_calls,
    "cross_entropy": cross_entropy_calls,
}


def plan_calls(name: str, dtype: torch.dtype) -> None:
    """One call of every distinct plan that the op's rules give; to be made inside ``on``."""
    seen = set()
    for key, call in PLANS[name](dtype):
        if key not in seen:
            seen.add(key)
            call()
