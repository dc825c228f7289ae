"""A launch of which all but the addresses is decided: on small tensors what a call costs is the time until its kernel is launched."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from typing import Any

import torch

from anymamba.backends.cuda import nvrtc

_CONFIG = struct.Struct("7I4xQQI4x")
"""CUlaunchConfig: grid, block, bytes of shared memory, stream, and no attributes."""

_INVALID_CONTEXT = 201
_ONE_POINTER = ctypes.c_void_p * 1


class Launch:
    """A kernel's launch but for the addresses of its tensors, which come before the numbers of its struct; on the current stream of the
    kernel's device. May be called by several threads."""

    def __init__(self, kernel: Any, grid: int, threads: int, shared: int, numbers: list[int]) -> None:
        self.kernel, self.grid, self.threads, self.shared, self.numbers = kernel, grid, threads, shared, numbers
        self.function, self.index = 0, 0
        self._tail = struct.pack(f"{len(numbers)}q", *numbers)
        self._configs: dict[int, bytes] = {}
        self._buffers: list[tuple[Any, Any, Any]] = []  # those that no thread is using
        self._launcher: Callable[..., int] | None = None
        if isinstance(kernel, nvrtc.Kernel):
            self._launcher = nvrtc.launcher_by_config()
        if self._launcher is not None:
            kernel.allow(shared)
            self.function, self.index = kernel.function, kernel.index

    def __call__(self, *addresses: int) -> None:
        launcher = self._launcher
        if launcher is None or torch._C._cuda_getDevice() != self.index:
            self.kernel.launch(self.grid, self.threads, self.shared, [*addresses, *self.numbers])
            return
        # what torch.cuda.current_stream makes an object of
        stream = torch._C._cuda_getCurrentRawStream(self.index)
        config = self._configs.get(stream) or self._config(stream)
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = self._buffer(len(addresses))
        pack, parameters, _ = buffer
        pack(*addresses)
        result = launcher(config, self.function, parameters, None)
        self._buffers.append(buffer)
        if result:
            self._again(result, addresses)

    def _config(self, stream: int) -> bytes:
        config = self._configs[stream] = _CONFIG.pack(self.grid, 1, 1, self.threads, 1, 1, self.shared, stream, 0, 0)
        return config

    def _buffer(self, count: int) -> tuple[Any, Any, Any]:
        memory = ctypes.create_string_buffer(bytes(8 * count) + self._tail)
        pack = functools.partial(struct.Struct(f"{count}q").pack_into, memory, 0)
        return pack, _ONE_POINTER(ctypes.addressof(memory)), memory

    def _again(self, result: int, addresses: tuple[int, ...]) -> None:
        """A thread that autograd has just started has no context yet; all else is an error. The ordinary way knows of both."""
        if result != _INVALID_CONTEXT:
            nvrtc.raise_error("cuLaunchKernelEx", result)
        self.kernel.launch(self.grid, self.threads, self.shared, [*addresses, *self.numbers])
