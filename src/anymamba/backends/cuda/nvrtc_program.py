"""One program through NVRTC. Standard library only, and a script as well, because some versions crash on some programs:

    python nvrtc_program.py LIBRARY MAJOR MINOR < source > machine code

Ends with 1 where NVRTC refuses the program, its words on stderr; with 2 where the library cannot be loaded.
"""

from __future__ import annotations

import ctypes
import os
import sys


class RefusedProgram(RuntimeError):
    """A program that NVRTC would not take; its text has NVRTC's words."""


def version(nvrtc: ctypes.CDLL) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def compile_program(nvrtc: ctypes.CDLL, text: str, capability: tuple[int, int]) -> bytes:
    """Machine code for a compute capability, PTX where NVRTC is older than the GPU. Raises RefusedProgram with the compiler's log."""
    count = ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    known = (ctypes.c_int * count.value)()
    _check(nvrtc, nvrtc.nvrtcGetSupportedArchs(known))
    wanted = capability[0] * 10 + capability[1]
    native = wanted in known
    target = f"sm_{wanted}" if native else f"compute_{max(arch for arch in known if arch < wanted)}"
    program = ctypes.c_void_p()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None))
    try:
        options = [b"--std=c++17", f"--gpu-architecture={target}".encode()]
        result = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if result:
            size = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RefusedProgram(log.value.decode(errors="replace") or f"NVRTC error {result}")
        kind = "CUBIN" if native else "PTX"
        size = ctypes.c_size_t()
        _check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        _check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}")(program, code))
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _check(nvrtc: ctypes.CDLL, result: int) -> None:
    if result:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RefusedProgram(f"NVRTC: {nvrtc.nvrtcGetErrorString(result).decode()}")


def main() -> int:
    path, major, minor = sys.argv[1:]
    if sys.platform == "win32":
        os.add_dll_directory(os.path.dirname(path))  # NVRTC looks for its built-in functions while it compiles
    try:
        nvrtc = ctypes.CDLL(path)
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        code = compile_program(nvrtc, sys.stdin.buffer.read().decode(), (int(major), int(minor)))
    except RefusedProgram as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
