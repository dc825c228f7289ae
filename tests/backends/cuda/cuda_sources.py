"""The CUDA C++ kernels that the ops and the fused step would compile at run time, for a GPU that is not there.

As with Triton's in specialisations.py, calls are made on meta tensors, with every launch recorded instead of made.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.backends.triton import ahead_of_time, specialisations
from torch import Tensor

from anymamba.backends.cuda import (
    causal_conv1d,
    causal_conv1d_launch,
    decode,
    decode_step,
    nvrtc,
    nvrtc_program,
    selective_scan,
    selective_scan_launch,
    selective_scan_rows_launch,
)
from anymamba.backends.triton import launch
from anymamba.generation import stepper
from anymamba.generation.quantize import quantize_int8
from anymamba.models.cache import Cache
from anymamba.models.config import Config
from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import SIZES, config_of_size

CAPABILITIES = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_100": (10, 0), "sm_120": (12, 0)}

OPTIONS = tuple(itertools.product((True, False), (True, False), (True, False)))
"""Of a scan: D, bias and softplus; z; in float32 although the inputs are not."""

FALCON = FalconMambaConfig(hidden_size=4096, num_hidden_layers=64, vocab_size=65024)
"""FalconMamba-7B."""


@dataclass(frozen=True)
class Source:
    """A kernel with everything that its compilation depends on. shared: most bytes of shared memory that it was launched with."""

    file: str
    entry: str
    defines: tuple[tuple[str, object], ...]
    shared: int = 0

    def __str__(self) -> str:
        return f"{self.entry} {dict(self.defines)}"


@contextlib.contextmanager
def on(target: str, monkeypatch: Any) -> Iterator[list[Source]]:
    """The facts about a device are those of the target; launches are recorded, one of each kernel."""
    found: dict[Source, int] = {}

    class Recorder:
        def __init__(self, file: str, entry: str, defines: Mapping[str, object], device: torch.device) -> None:
            self.source = Source(file, entry, tuple(defines.items()))

        def launch(self, grid: int, threads: int, shared: int, arguments: list[int], together: bool = False) -> None:
            found[self.source] = max(found.get(self.source, 0), shared)

    sources: list[Source] = []
    with specialisations.on(target, monkeypatch) as triton, monkeypatch.context() as patch:
        for module in (selective_scan_launch, selective_scan_rows_launch, decode):
            patch.setattr(module, "shared_memory", launch.shared_memory)
        for module in (selective_scan_launch, selective_scan_rows_launch, decode, causal_conv1d_launch):
            patch.setattr(module, "processors", launch.processors)
        patch.setattr(nvrtc, "kernel", Recorder)
        patch.setattr(nvrtc, "usable", lambda device: (True, ""))
        patch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        patch.setattr(Tensor, "data_ptr", lambda self: 0)
        yield sources
    assert not triton
    sources += [Source(key.file, key.entry, key.defines, shared) for key, shared in found.items()]


def scan_calls(dtype: torch.dtype, sizes: tuple[tuple[int, int, int], ...] = ()) -> None:
    """A scan of every plan that the rules give, forward alone and with backward, with options and without; to be made inside ``on``.
    sizes: (batch, channels, length) of those to take instead."""
    some = [(batch, channels, length) for channels in (64, 512, 1536, 2048, 5120) for length in (40, 2048, 8192) for batch in (1, 8)]
    for (batch, channels, length), (options, gate, wide), grad in itertools.product(sizes or some, OPTIONS, (True, False)):
        channel = _empty(torch.float32 if wide else dtype, channels) if options else None
        u, delta, z = (_rows(batch, channels, length, dtype, grad) for _ in range(3))
        B, C = (_rows(batch, 16, length, dtype, grad) for _ in range(2))
        A = _empty(torch.float32 if wide else dtype, channels, 16)
        out: Any = selective_scan.selective_scan_fn(u, delta, A, B, C, channel, z if gate else None, channel, options, options)
        out = out[0] if options else out
        if grad:
            out.backward(torch.empty_like(out))


def rows_calls(dtype: torch.dtype, states: tuple[int, ...] = (1, 16, 24, 256)) -> None:
    """The same for steps side by side in memory, of every plan for that."""
    for d_state, (batch, channels, groups), options, wide in itertools.product(
        states, ((8, 2048, 1), (64, 1536, 4), (1, 5120, 1), (1, 1536, 1), (1, 64, 64), (2, 1024, 1)), (True, False), (True, False)
    ):
        channel = _empty(torch.float32 if wide else dtype, channels) if options else None
        u, delta, z = (_empty(dtype, batch, channels, 2048).requires_grad_() for _ in range(3))
        constant = options and channels == 64
        B, C = (_empty(dtype, channels, d_state) if constant else _empty(dtype, batch, groups, d_state, 2048) for _ in range(2))
        A = _empty(torch.float32 if wide else dtype, channels, d_state)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                out: Any = selective_scan.selective_scan_fn(u, delta, A, B, C, channel, z if options else None, channel, options, options)
            if grad:
                out = out[0] if options else out
                out.backward(torch.empty_like(out))


def conv_calls(dtype: torch.dtype, widths: tuple[int, ...] = (1, 4, 8)) -> None:
    """A convolution of every plan, forward and backward."""
    for width, (batch, channels, length), bias in itertools.product(
        widths, ((1, 1536, 2048), (8, 5120, 2048), (64, 37, 196), (1, 6, 37), (2, 3, 501)), (True, False)
    ):
        weight = _empty(dtype, channels, width)
        for x in (_rows(batch, channels, length, dtype, True), _empty(dtype, batch, channels, length).requires_grad_()):
            out: Any = causal_conv1d.causal_conv1d_fn(x, weight, _empty(dtype, channels) if bias else None, activation="silu")
            out.backward(torch.empty_like(out))


def documents_calls(dtype: torch.dtype) -> None:
    """Scans of packed documents from a state, of the smallest and the largest plan."""
    for channels in (64, 5120):
        u, delta, z = (_empty(dtype, 1, channels, 2048).requires_grad_() for _ in range(3))
        B, C = (_empty(dtype, 1, 16, 2048) for _ in range(2))
        A, state = _empty(torch.float32, channels, 16), _empty(torch.float32, 1, channels, 16)
        seq_idx = torch.empty(1, 2048, dtype=torch.int32, device="meta")
        out: Any = selective_scan.selective_scan_fn(u, delta, A, B, C, None, z, None, True, False, state, seq_idx)
        out.backward(torch.empty_like(out))


def _rows(batch: int, width: int, length: int, dtype: torch.dtype, grad: bool) -> Tensor:
    return torch.empty(batch, length, width, dtype=dtype, device="meta").transpose(1, 2).requires_grad_(grad)


def _empty(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def models() -> dict[str, Config]:
    named = {f"{family}-{size}": config_of_size(size, family) for family in ("mamba", "mamba2") for size in SIZES}
    return {**named, "falcon-mamba-7b": FALCON}


def step_of(config: Config, dtype: torch.dtype, int8: bool) -> Source | None:
    """The fused step of a model, to be asked for inside ``on``; None where it is not made for this GPU."""
    with torch.device("meta"):
        model = LanguageModel(config).to(dtype)
        if int8:
            model = quantize_int8(model)
    described = stepper.described(model, Cache(config, 1, "meta", dtype))
    device = torch.device("meta")
    fits = decode_step.supports(described.call())[0]
    described = decode_step._described(described)
    assert decode.suits(described, device)[0] == fits
    if not fits:
        return None
    blocks = decode.blocks(described, launch.processors(device))
    defines, shared = decode.defines_of(described, blocks, launch.shared_memory(device))
    entry = f"decode_{described.family}"
    return Source(f"{entry}.cu", entry, tuple(defines.items()), shared)


def wrong(source: Source, target: str, spilled: int = 0) -> str:
    """What is wrong with the kernel on this target, or nothing. spilled: bytes a lane that may be."""
    try:
        code = nvrtc.compile_source(nvrtc.source(source.file, dict(source.defines)), CAPABILITIES[target])
    except nvrtc.NotCompiled as error:
        return f"{source}: {str(error)[:500]}"
    assert code.startswith(b"\x7fELF"), "an NVRTC that does not know the target"
    if source.shared > ahead_of_time.SHARED_MEMORY[target]:
        return f"{source}: {source.shared} bytes of shared memory"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(code)
        registers, stack = ahead_of_time.usage(str(path))
    return f"{source}: {registers} registers, {stack} bytes spilled" if target in ("sm_90", "sm_120") and stack > spilled else ""


def compiler() -> str:
    """Why no kernel can be compiled here, or nothing."""
    try:
        version = nvrtc_program.version(nvrtc.library())
    except OSError as error:
        return str(error)
    return "" if version >= (12, 8) else f"NVRTC {version} does not know compute capability 12.0"
