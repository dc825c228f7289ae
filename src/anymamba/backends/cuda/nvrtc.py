"""CUDA C++ compiled at run time by NVRTC, which PyTorch's CUDA wheels bring along: no nvcc, no host compiler, no headers.

The sources are in kernels/. A kernel is one source file under a set of #defines; its machine code is kept in the cache folder.
"""

from __future__ import annotations

import array
import ctypes
import functools
import hashlib
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anymamba import announce
from anymamba.backends.cuda import nvrtc_program
from anymamba.backends.refusal import NotCompiled
from anymamba.cachefolder import cache_folder, read_bytes, write_bytes
from anymamba.language import _

FOLDER = Path(__file__).parent / "kernels"
_INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)


def source(file: str, defines: Mapping[str, object]) -> str:
    """The text of one kernel: its #defines, its file, and once each what that includes."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: expand(found.group(1)), text)

    return "".join(f"#define {name} {value}\n" for name, value in defines.items()) + expand(file)


@functools.cache
def library() -> ctypes.CDLL:
    """NVRTC as PyTorch brings it. Raises OSError with every name tried."""
    major = (torch.version.cuda or "12").split(".")[0]
    if sys.platform == "win32":
        names = [f"nvrtc64_{major}0_0.dll"]
        folders = [Path(torch.__file__).parent / "lib"]
    else:
        names = [f"libnvrtc.so.{major}", "libnvrtc.so"]
        packages = Path(torch.__file__).parent.parent / "nvidia"
        folders = [packages / "cuda_nvrtc" / "lib", packages / f"cu{major}" / "lib", Path(torch.__file__).parent / "lib"]
    tried = []
    for candidate in [*names, *(str(folder / name) for folder in folders for name in names)]:
        try:
            return ctypes.CDLL(candidate)
        except OSError as error:
            tried.append(str(error))
    raise OSError("; ".join(tried))


def compile_source(text: str, capability: tuple[int, int]) -> bytes:
    """Machine code for a compute capability, PTX where NVRTC is older than the GPU. Raises NotCompiled with the compiler's words.

    In another process, which a compiler that crashes takes down instead of the caller's: NVRTC 12.8 and 12.9 did on a kernel of ours
    for compute capability 12.0."""
    nvrtc = library()
    command = [sys.executable, "-I", nvrtc_program.__file__, nvrtc._name, *map(str, capability)]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise NotCompiled(_("NVRTC did not end within {seconds} s").format(seconds=_PATIENCE)) from None
    except OSError:  # there is no Python to start, as in a program that embeds one
        return _compile_here(nvrtc, text, capability)
    words = done.stderr.decode(errors="replace").strip()
    if done.returncode == 0:
        return done.stdout
    if done.returncode == 1:
        raise NotCompiled(words)
    if done.returncode == 2:  # found here by a name that only this process resolves
        return _compile_here(nvrtc, text, capability)
    how = f"{done.returncode} {words[-200:]}".strip()
    raise NotCompiled(_("NVRTC crashed while it compiled ({how})").format(how=how))


def _compile_here(nvrtc: ctypes.CDLL, text: str, capability: tuple[int, int]) -> bytes:
    try:
        return nvrtc_program.compile_program(nvrtc, text, capability)
    except nvrtc_program.RefusedProgram as error:
        raise NotCompiled(str(error)) from error


_PATIENCE = 300
"""Seconds that one kernel may take: a hundred times what the largest takes."""


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _call(name: str, *arguments: object) -> None:
    result = getattr(_driver(), name)(*arguments)
    if result:
        raise_error(name, result)


def raise_error(name: str, result: int) -> None:
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(result, ctypes.byref(text))
    raise RuntimeError(f"{name}: CUDA error {result}: {(text.value or b'').decode()}")


class Kernel:
    """A kernel on one device."""

    def __init__(self, file: str, entry: str, defines: Mapping[str, object], device: torch.device) -> None:
        text = source(file, defines)
        capability = torch.cuda.get_device_capability(device)
        major, minor = nvrtc_program.version(library())
        digest = hashlib.sha256(f"{text}|{capability}|{major}.{minor}".encode()).hexdigest()[:32]
        name = f"cuda/{entry}-{digest}"
        code = read_bytes(name)
        if code is None:
            announce.once(
                _(
                    "compiling kernels for this GPU, which takes some seconds; {folder} keeps them for the next start"
                ).format(folder=cache_folder())
            )
            code = compile_source(text, capability)
            write_bytes(name, code)
        self._module = ctypes.c_void_p()
        self._function = ctypes.c_void_p()
        self._index = device.index
        with torch.cuda.device(device):
            try:
                _enter_context(device.index)
                _call("cuModuleLoadData", ctypes.byref(self._module), code)
                _call("cuModuleGetFunction", ctypes.byref(self._function), self._module, entry.encode())
            except RuntimeError as error:
                raise NotCompiled(str(error)) from error
        self._shared = 0
        self.function, self.index = self._function.value or 0, device.index

    def allow(self, shared: int) -> None:
        """From now on the kernel may be launched with so many bytes of shared memory."""
        if shared > max(self._shared, 48 * 1024):
            with torch.cuda.device(self._index):
                _enter_context(self._index)
                _call("cuFuncSetAttribute", self._function, 8, shared)  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._shared = shared

    def launch(self, grid: int, threads: int, shared: int, arguments: list[int], together: bool = False) -> None:
        """arguments: pointers and integers, 8 bytes each, as the kernel's one struct has them. together: all blocks run at the same
        time, or the launch fails. On the device's current stream; whichever device is the current one."""
        if torch.cuda.current_device() != self._index:
            with torch.cuda.device(self._index):
                return self.launch(grid, threads, shared, arguments, together)
        if together:
            _enter_context(self._index)
        self.allow(shared)
        packed = array.array("q", arguments)  # a buffer of this call's own, for other threads launch too
        parameters = _ONE_POINTER(packed.buffer_info()[0])
        # what torch.cuda.current_stream makes an object of
        stream = torch._C._cuda_getCurrentRawStream(self._index)
        if together:
            _call("cuLaunchCooperativeKernel", self._function, grid, 1, 1, threads, 1, 1, shared, ctypes.c_void_p(stream), parameters)
            return
        result = _launcher()(self._function, grid, 1, 1, threads, 1, 1, shared, stream, parameters, None)
        if result == _INVALID_CONTEXT:
            _enter_context(self._index)
            result = _launcher()(self._function, grid, 1, 1, threads, 1, 1, shared, stream, parameters, None)
        if result:
            raise_error("cuLaunchKernel", result)


_ONE_POINTER = ctypes.c_void_p * 1
_INVALID_CONTEXT = 201


def _enter_context(index: int) -> None:
    """The device's context becomes that of this thread if it has none: autograd's threads begin without one."""
    current = ctypes.c_void_p()
    _call("cuCtxGetCurrent", ctypes.byref(current))
    if not current.value:
        _call("cuCtxSetCurrent", _context(index))


@functools.cache
def _context(index: int) -> ctypes.c_void_p:
    """The context that PyTorch uses too."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call("cuDeviceGet", ctypes.byref(device), index)
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return context


@functools.cache
def _launcher() -> Any:
    """cuLaunchKernel; with the types of its arguments declared, ctypes converts them faster."""
    launch = _driver().cuLaunchKernel
    launch.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return launch


@functools.cache
def launcher_by_config() -> Any:
    """cuLaunchKernelEx, which takes the numbers of a launch together; None where the driver is too old for it."""
    launch = getattr(_driver(), "cuLaunchKernelEx", None)
    if launch is not None:
        launch.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return launch


@functools.cache
def _kernel(file: str, entry: str, defines: tuple[tuple[str, object], ...], index: int) -> Kernel:
    return Kernel(file, entry, dict(defines), torch.device("cuda", index))


def kernel(file: str, entry: str, defines: Mapping[str, object], device: torch.device) -> Kernel:
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _kernel(file, entry, tuple(defines.items()), index)


@functools.cache
def usable(device: torch.device) -> tuple[bool, str]:
    """Can kernels be compiled for this device and launched there."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False, _("not an NVIDIA GPU")
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return False, _("this GPU has compute capability {major}.{minor}; the kernels need 8.0").format(
            major=major, minor=minor
        )
    try:
        library()
        _driver()
    except OSError as error:
        return False, _("NVRTC cannot be used: {error}").format(error=error)
    return True, _("NVRTC compiles CUDA C++ here")
