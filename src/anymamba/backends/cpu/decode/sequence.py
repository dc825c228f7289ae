"""Several kernels one after another in a single parallel region: a whole decoding step costs one call from Python.

Each kernel's workers take its tasks from a counter; a worker goes on to the next kernel when all tasks are taken and nobody is
inside the kernel any more. That needs no barrier among a known number of threads, so it cannot hang when the pool sends fewer
workers than were asked for: one alone would do everything.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch

from anymamba.backends.cpu.jit import target as targets
from anymamba.backends.cpu.jit import threads
from anymamba.backends.cpu.jit.compile import Program, scratch, slot
from anymamba.backends.cpu.jit.emit import Kernel

_LINE = 16
"""64-bit words between two kernels' argument arrays, so that no two counters share a cache line."""

_SPINS = 4000
"""Looks at the counter before the core is offered to other threads: about 20 µs."""

_RUNNER = """
target triple = "{triple}"

declare void @llvm.x86.sse2.pause()

define void @sequence(ptr %control) {{
entry:
  %count.at = getelementptr i64, ptr %control, i64 0
  %steps.at = getelementptr i64, ptr %control, i64 1
  %yield.at = getelementptr i64, ptr %control, i64 2
  %count = load i64, ptr %count.at
  %steps = load ptr, ptr %steps.at
  %yield = load ptr, ptr %yield.at
  %can.yield = icmp ne ptr %yield, null
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %finished ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %work, label %out
work:
  %offset = mul i64 %i, 3
  %entry.at = getelementptr i64, ptr %steps, i64 %offset
  %data.at = getelementptr ptr, ptr %entry.at, i64 1
  %inside.at = getelementptr ptr, ptr %entry.at, i64 2
  %kernel = load ptr, ptr %entry.at
  %data = load ptr, ptr %data.at
  %inside = load ptr, ptr %inside.at
  %tasks.at = getelementptr i64, ptr %data, i64 2
  %tasks = load i64, ptr %tasks.at
  atomicrmw add ptr %inside, i64 1 seq_cst
  call void %kernel(ptr %data)
  atomicrmw sub ptr %inside, i64 1 seq_cst
  br label %wait
wait:
  %spins = phi i64 [ 0, %work ], [ %spins.next, %again ]
  %taken = load atomic i64, ptr %data seq_cst, align 8
  %all.taken = icmp sge i64 %taken, %tasks
  %busy = load atomic i64, ptr %inside seq_cst, align 8
  %idle = icmp eq i64 %busy, 0
  %done = and i1 %all.taken, %idle
  br i1 %done, label %finished, label %spin
spin:
  {pause}
  %spins.next = add i64 %spins, 1
  %patient = icmp ult i64 %spins.next, {limit}
  %impatient = xor i1 %patient, true
  %give.way = and i1 %impatient, %can.yield
  br i1 %give.way, label %yielding, label %again
yielding:
  %ignored = call i32 %yield()
  br label %again
again:
  br label %wait
finished:
  %i.next = add i64 %i, 1
  br label %next
out:
  ret void
}}
"""


class Sequence:
    """``add`` kernels with their arguments once, then ``run`` them as often as needed: the arguments' addresses must stay."""

    def __init__(self) -> None:
        self._parts: list[tuple[Program, int, dict[str, Any]]] = []
        self._arrays: np.ndarray | None = None

    def add(self, program: Program, tasks: int, **arguments: Any) -> None:
        """Tensors given here are kept alive as long as the sequence."""
        self._parts.append((program, tasks, arguments))
        self._arrays = None

    def run(self, workers: int | None = None) -> None:
        if self._arrays is None:
            self._lay_out()
        assert self._arrays is not None
        workers = workers or torch.get_num_threads()
        self._arrays[:, :2] = 0  # task and worker counters
        self._arrays[:, 3] = scratch(self._scratch_bytes * workers)  # the number of workers may differ from the last run's
        self._inside[:] = 0
        threads.parallel_for(_runner(), self._control.ctypes.data, workers)

    def _lay_out(self) -> None:
        codes = [program.code() for program, _, _ in self._parts]
        words = -(-max(Kernel.HEADER + len(code.names) for code in codes) // _LINE) * _LINE
        self._arrays = np.zeros((len(codes), words), dtype=np.int64)
        self._inside = np.zeros((len(codes), _LINE), dtype=np.int64)
        self._steps = np.zeros((len(codes), 3), dtype=np.int64)
        self._scratch_bytes = max(code.scratch_bytes for code in codes)
        for index, (code, (_, tasks, arguments)) in enumerate(zip(codes, self._parts)):
            values = [0, 0, tasks, 0, self._scratch_bytes, *(slot(arguments[name]) for name in code.names)]
            self._arrays[index, : len(values)] = values
            self._steps[index] = code.entry, self._arrays[index].ctypes.data, self._inside[index].ctypes.data
        self._control = np.array([len(codes), self._steps.ctypes.data, _yield_address()], dtype=np.int64)


def _yield_address() -> int:
    """The system's call that offers the core to other threads; 0 where we know none."""
    if sys.platform == "win32":
        return ctypes.cast(ctypes.WinDLL("kernel32").SwitchToThread, ctypes.c_void_p).value or 0
    return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0


_engines: list[Any] = []


@functools.cache
def _runner() -> int:
    targets.initialize()
    host = targets.host()
    x86 = "86" in host.triple
    text = _RUNNER.format(
        triple=host.triple, limit=_SPINS, pause="call void @llvm.x86.sse2.pause()" if x86 else "fence seq_cst"
    )
    if not x86:
        text = text.replace("declare void @llvm.x86.sse2.pause()", "")
    module = llvm.parse_assembly(text)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, host.machine())
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address("sequence")
