"""Compiles the kernels that an op would launch, for a GPU that is not there, and reads what they use of it.

``launches`` runs an op on CPU tensors with every launch recorded instead of made; ``compile_for`` compiles a recorded launch with
the specialisation that Triton would choose for its arguments (integers that are 1 or multiples of 16, absent tensors).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}

SHARED_MEMORY = {
    "sm_80": 163 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
    "gfx942": 64 * 1024,
    "gfx1100": 64 * 1024,
}
"""Bytes a program may use: NVIDIA's CUDA programming guide, table of compute capabilities; AMD's LDS a work group."""

_OPTIONS = ("num_warps", "num_stages", "maxnreg", "num_ctas")

_TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Launch:
    """A kernel with everything that its compilation depends on."""

    kernel: JITFunction
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        return self.kernel.__name__


@contextlib.contextmanager
def launches() -> Iterator[list[Launch]]:
    """Records the launches made inside, in order, instead of making them."""
    found: list[Launch] = []
    original = JITFunction.run

    def record(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        found.append(_launch(self, arguments, keywords))

    JITFunction.run = record
    try:
        yield found
    finally:
        JITFunction.run = original


def _launch(kernel: JITFunction, arguments: tuple, keywords: dict[str, Any]) -> Launch:
    options = {name: keywords.pop(name) for name in _OPTIONS if name in keywords}
    values = {**dict(zip(kernel.arg_names, arguments)), **keywords}
    assert set(values) == set(kernel.arg_names), set(values) ^ set(kernel.arg_names)
    constexpr = {p.name for p in kernel.params if p.is_constexpr}
    plain = {p.name for p in kernel.params if p.do_not_specialize}
    signature, constants, aligned = [], [], []
    for name in kernel.arg_names:
        value = values[name]
        if name in constexpr or value is None or (type(value) is int and value == 1 and name not in plain):
            signature.append((name, "constexpr"))
            constants.append((name, value))
        elif isinstance(value, TensorDescriptor):
            block = ", ".join(str(size) for size in value.block_shape)
            signature.append((name, f"tensordesc<{_TYPES[value.base.dtype][1:]}[{block}]>"))
        elif isinstance(value, torch.Tensor):
            signature.append((name, _TYPES[value.dtype]))
            if value.storage_offset() * value.element_size() % 16 == 0:
                aligned.append(name)
        elif isinstance(value, float):
            signature.append((name, "fp32"))
        else:
            signature.append((name, "i32" if -(2**31) <= value < 2**31 else "i64"))
            if value % 16 == 0 and name not in plain:
                aligned.append(name)
    return Launch(kernel, tuple(signature), tuple(constants), tuple(aligned), tuple(sorted(options.items())))


def compile_for(launch: Launch, target: str) -> Any:
    """Triton's compiled kernel."""
    place = {name: index for index, name in enumerate(launch.kernel.arg_names)}
    source = ASTSource(
        fn=launch.kernel,
        signature=dict(launch.signature),
        constexprs={(place[name],): value for name, value in launch.constants},
        attrs={(place[name],): [["tt.divisibility", 16]] for name in launch.aligned},
    )
    options = dict(launch.options)
    if target.startswith("gfx"):
        options.pop("maxnreg", None)
    return triton.compile(source, target=TARGETS[target], options=options)


def registers_and_stack(compiled: Any) -> tuple[int, int]:
    """Of Triton's compiled kernel, see ``usage``."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        with open(path, "wb") as file:
            file.write(compiled.asm["cubin"])
        return usage(path)


def usage(path: str) -> tuple[int, int]:
    """Registers a lane and bytes of local memory a lane, the latter being what was spilled, of the kernel in a file of machine code;
    from NVIDIA's own tool, which Triton brings along."""
    import triton.backends.nvidia as nvidia

    tool = os.path.join(os.path.dirname(nvidia.__file__), "bin", "cuobjdump")
    text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+)\s+STACK:(\d+)", text)
    assert found, text
    return int(found.group(1)), int(found.group(2))
