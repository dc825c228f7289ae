"""From a kernel function to machine code, compiled when first run and kept on disk."""

from __future__ import annotations

import array
import functools
import hashlib
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import torch
from torch import Tensor

from anymamba import announce, cachefolder
from anymamba.backends.cpu.jit import target as targets
from anymamba.backends.cpu.jit import threads
from anymamba.backends.cpu.jit.emit import Kernel
from anymamba.backends.cpu.jit.target import Target
from anymamba.language import _


class Program:
    """A compiled kernel. ``build(k, *options)`` emits it; options are compile-time constants.

    The machine code is cached under a digest of this package's sources, the options, llvmlite's version and the target: a warm
    start emits no IR at all. Every thread may run it.
    """

    def __init__(self, name: str, build: Callable[..., None], *options: Any) -> None:
        self.name, self.build, self.options = name, build, options
        self._lock = threading.Lock()
        self._ready: _Code | None = None

    def run(self, tasks: int, *, workers: int | None = None, **arguments: Any) -> None:
        """Runs tasks 0 ... tasks-1 on up to ``workers`` cores (default: torch.get_num_threads()) and returns when all are done."""
        names = (self._ready or self.code()).names
        self.launch(tasks, workers or torch.get_num_threads(), [slot(arguments[name]) for name in names])

    def launch(self, tasks: int, workers: int, slots: Sequence[int]) -> None:
        """``run`` for a caller that counts microseconds: the arguments in the order of ``code().names``, tensors as addresses."""
        if tasks <= 0:
            return
        code = self._ready or self.code()
        workers = min(tasks, workers)
        address = scratch(code.scratch_bytes * workers) if code.scratch_bytes else 0
        data = array.array("q", (0, 0, tasks, address, code.scratch_bytes, *slots))
        threads.parallel_for(code.entry, data.buffer_info()[0], workers)

    def code(self) -> _Code:
        with self._lock:
            if self._ready is None:
                self._ready = _code(self.name, self.build, self.options, targets.host())
            return self._ready


class _Code:
    """Machine code in memory. names: the kernel's arguments in order."""

    def __init__(self, names: list[str], scratch_bytes: int, content: bytes, target: Target) -> None:
        self.names, self.scratch_bytes = names, scratch_bytes
        empty = llvm.parse_assembly(f'target triple = "{target.triple}"')
        self.engine = llvm.create_mcjit_compiler(empty, target.machine())
        self.engine.add_object_file(llvm.ObjectFileRef.from_data(content))
        self.engine.finalize_object()
        self.entry = self.engine.get_function_address("run")


def compile_kernel(build: Callable[..., None], options: tuple[Any, ...], target: Target) -> tuple[Kernel, bytes]:
    """The emitted kernel and its object code, for any target that LLVM was built with."""
    targets.initialize()
    kernel = Kernel(target)
    build(kernel, *options)
    module = llvm.parse_assembly(str(kernel.finish()))
    module.verify()
    machine = target.machine()
    module.data_layout = str(machine.target_data)
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    # kernels are written as vectors, and unrolled where that pays
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = tuning.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return kernel, machine.emit_object(module)


def _code(name: str, build: Callable[..., None], options: tuple[Any, ...], target: Target) -> _Code:
    key = "|".join((_sources(), llvmlite.__version__, repr(target), name, build.__module__, build.__qualname__, repr(options)))
    file = f"cpu/{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin"
    stored = _unpack(cachefolder.read_bytes(file))
    if stored is None:
        folder = cachefolder.cache_folder()
        announce.once(
            _(
                "compiling kernels for this processor, which takes some seconds; {folder} keeps them for the next start"
            ).format(folder=folder)
        )
        kernel, content = compile_kernel(build, options, target)
        stored = kernel.names, kernel.scratch_bytes, content
        cachefolder.write_bytes(file, _pack(*stored))
    return _Code(*stored, target)


def _pack(names: list[str], scratch_bytes: int, content: bytes) -> bytes:
    body = " ".join([str(scratch_bytes), *names]).encode() + b"\n" + content
    return hashlib.sha256(body).digest() + body


def _unpack(stored: bytes | None) -> tuple[list[str], int, bytes] | None:
    """None for no file and for a damaged one: LLVM would end the process over bad object code."""
    if stored is None or hashlib.sha256(stored[32:]).digest() != stored[:32]:
        return None
    head, _, content = stored[32:].partition(b"\n")
    scratch_bytes, *names = head.decode().split(" ")
    return names, int(scratch_bytes), content


def source_files() -> list[Path]:
    """Of the whole backend: a kernel that was edited in any of its folders is compiled again."""
    return sorted(Path(__file__).parents[1].rglob("*.py"))


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for file in source_files():
        digest.update(file.read_bytes())
    return digest.hexdigest()


_local = threading.local()


def scratch(size: int) -> int:
    """Address of at least ``size`` bytes of this thread's, aligned to a page so that no two workers share a cache line; valid until
    the thread asks for more."""
    if getattr(_local, "size", -1) < size:
        _local.memory = torch.empty(size + 4096, dtype=torch.uint8)
        _local.size = size
    return -(-_local.memory.data_ptr() // 4096) * 4096


def slot(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.data_ptr()
    if isinstance(value, float):
        return struct.unpack("q", struct.pack("d", value))[0]
    return 0 if value is None else int(value)
