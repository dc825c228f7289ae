"""The decode kernels on a processor: several blocks at the same time, compiled by g++ with the emulators, against the model's own step."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from anymamba.backends import selfcheck
from anymamba.backends.cuda import decode, decode_step, nvrtc
from anymamba.backends.decode_model import DecodeModel
from anymamba.generation import stepper as steppers
from anymamba.generation.quantize import quantize_int8
from anymamba.models.cache import Cache
from anymamba.models.config import Config
from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config
from anymamba.ops.decode_step import build

HERE = Path(__file__).parent
BLOCKS = 3
_ENTRY = """
static {arguments} given; static void go() {{ {entry}(given); }}
extern "C" void launch(long grid, int threads, const void* bytes) {{ memcpy(&given, bytes, sizeof given); run_grid(grid, threads, go); }}
extern "C" long size() {{ return sizeof(given); }}
"""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


class EmulatedKernel:
    """Stands in for nvrtc.Kernel."""

    def __init__(self, folder: Path, file: str, entry: str, defines: Mapping[str, object]) -> None:
        text = nvrtc.source(file, defines).replace("extern __shared__ __align__(16) float shared[];", "")
        arguments = re.search(entry + r"\(const (\w+) p\)", text)
        assert arguments
        after = text.index("\n", text.index("struct __align__(16) Letter")) + 1
        head = f"#define TOGETHER {BLOCKS}\n#define __host__\n" + (HERE / "emulator.h").read_text()
        text = head + text[:after] + (HERE / "grid_emulator.h").read_text() + text[after:]
        text += _ENTRY.format(arguments=arguments.group(1), entry=entry)
        path = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        if not path.with_suffix(".so").exists():
            path.with_suffix(".cpp").write_text(text)
            command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-o", path.with_suffix(".so"), path.with_suffix(".cpp")]
            subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(path.with_suffix(".so")))
        self.library.size.restype = ctypes.c_long

    def launch(self, grid: int, threads: int, shared: int, arguments: list[int], together: bool = False) -> None:
        assert together and grid == BLOCKS
        assert shared <= 99 * 1024  # what an sm_120 block may have
        packed = struct.pack(f"{len(arguments)}q", *arguments)
        assert self.library.size() == len(packed)
        self.library.launch(ctypes.c_long(grid), threads, packed)


SMALL: dict[str, Any] = {"vocab_size": 72, "hidden_size": 40, "num_hidden_layers": 3}
SECOND: dict[str, Any] = {"vocab_size": 72, "hidden_size": 64, "num_hidden_layers": 3, "head_dim": 32, "num_heads": 4}


@pytest.mark.parametrize(
    "config,dtype,int8,threads",
    [
        pytest.param(MambaConfig(**SMALL), torch.float32, False, 64, id="mamba-fp32"),
        pytest.param(Mamba2Config(**SECOND, n_groups=1, state_size=32), torch.float32, False, 64, id="mamba2-fp32"),
        *(
            pytest.param(*case, id=name, marks=pytest.mark.slow)
            for name, *case in [
                ("biases", MambaConfig(**SMALL, use_bias=True, time_step_rank=3), torch.bfloat16, False, 64),
                # more warps than a block has pieces of x_proj: the sums of those without any must not be read
                ("many-warps", MambaConfig(vocab_size=72, hidden_size=320, num_hidden_layers=2), torch.float16, False, 256),
                ("falcon", FalconMambaConfig(**SMALL), torch.float32, False, 64),
                # neither dt_proj nor x_proj fit in the registers of a lane ahead of their use
                ("wide-dt", FalconMambaConfig(**SMALL, time_step_rank=64), torch.bfloat16, False, 64),
                ("int8", MambaConfig(vocab_size=72, hidden_size=48, num_hidden_layers=3), torch.bfloat16, True, 64),
                (
                    "groups", Mamba2Config(**SECOND, n_groups=2, state_size=64, use_bias=True, time_step_limit=(0.01, 0.5)),
                    torch.float32, False, 64,
                ),
                (
                    "wide", Mamba2Config(
                        vocab_size=72, hidden_size=320, num_hidden_layers=2, head_dim=64, num_heads=10, n_groups=1, state_size=128
                    ), torch.bfloat16, False, 64,
                ),
                ("mamba2-int8", Mamba2Config(**SECOND, n_groups=1, state_size=32), torch.bfloat16, True, 64),
            ]
        ),
    ],
)  # fmt: skip
def test_emulated_steps_are_the_models(
    config: Config, dtype: torch.dtype, int8: bool, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four tokens from a random state: logits and both states. All in one launch each, of three blocks that exchange letters."""
    emulate(monkeypatch, tmp_path, threads)
    torch.manual_seed(0)
    model = LanguageModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "dt" not in name and "A_log" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            if parameter.dim() == 2 and name.endswith("weight"):
                parameter.normal_(std=0.05)
    model = model.to(dtype).requires_grad_(False)
    if int8:
        model = quantize_int8(model)
    ours, own = model.make_cache(), model.make_cache()
    for mine, other in zip(ours.layers, own.layers):
        other.ssm.copy_(mine.ssm.normal_())
        other.conv.copy_(mine.conv.normal_())
    described = steppers.described(model, ours)
    assert decode_step.supports(described.call())[0]
    stepper = decode_step.CudaStepper(described)
    for token in (3, 1, 5, 0):
        ids = torch.tensor([token])
        got = stepper.step(ids)
        want = model(ids[:, None], cache=own).logits
        assert want is not None
        allowed = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 2e-2}[dtype]
        assert distance(got, want[:, -1]) < allowed
    for mine, other in zip(ours.layers, own.layers):
        assert distance(mine.ssm, other.ssm) < allowed and distance(mine.conv, other.conv) < allowed
    assert ours.tokens == 4


def emulate(monkeypatch: pytest.MonkeyPatch, folder: Path, threads: int) -> None:
    monkeypatch.setattr(nvrtc, "kernel", lambda file, entry, defines, device: EmulatedKernel(folder, file, entry, defines))
    monkeypatch.setattr(nvrtc, "usable", lambda device: (True, ""))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(decode, "processors", lambda device: BLOCKS)
    monkeypatch.setattr(decode, "shared_memory", lambda device: 99 * 1024)
    monkeypatch.setattr(decode, "THREADS", threads)


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def test_what_the_kernels_cannot_serve_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "usable", lambda device: (True, ""))
    monkeypatch.setattr(decode, "processors", lambda device: BLOCKS)
    monkeypatch.setattr(decode, "shared_memory", lambda device: 99 * 1024)
    device = torch.device("cuda", 0)
    for config, word in (
        (MambaConfig(vocab_size=72, hidden_size=42, num_hidden_layers=1), "multiples"),
        (MambaConfig(**SMALL, state_size=12), "d_state 12"),
        (MambaConfig(vocab_size=72, hidden_size=16384, num_hidden_layers=1), "shared memory"),
    ):
        with torch.device("meta"):
            model = LanguageModel(config)
        monkeypatch.setattr(torch.Tensor, "data_ptr", lambda self: 0)
        cache = Cache(config, 1, "meta", torch.float32)
        ok, why = decode_step.supports(replace(steppers.described(model, cache).call(), device=device))
        assert not ok and word in why
    model = LanguageModel(MambaConfig(**SMALL))
    ok, why = decode_step.supports(steppers.described(model, model.make_cache(3)).call())
    assert not ok and "not a batch of 3" in why


@pytest.mark.parametrize("by_head", [False, True])
def test_the_self_check_reaches_the_kernel_of_the_call(by_head: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, tmp_path, 64)
    sizes: dict[str, Any] = {"by_head": True, "d_state": 32} if by_head else {"d_model": 40, "d_inner": 80, "dt_rank": 3}
    inputs = build(batch=1, bias=True, **sizes)(torch.randn)
    call = DecodeModel(**{name: value for name, value in inputs.items() if name != "ids"}).call()
    assert decode_step.supports(call)[0]
    ok, reason = selfcheck.run(decode_step, call)  # type: ignore[arg-type]
    assert ok, reason
    probe = build(**decode_step.probe(call)[0])(torch.randn)
    same = DecodeModel(**{name: value for name, value in probe.items() if name != "ids"}).call()
    assert decode_step.variant(same) == decode_step.variant(call)
