"""Products with weights in blocks compile ahead of time for processors that this machine is not, with the instructions meant for them."""

from __future__ import annotations

import dataclasses

import llvmlite.binding as llvm
import pytest

from anymamba.backends.cpu import widened_product_kernels
from anymamba.backends.cpu.decode import decode_kernels
from anymamba.backends.cpu.jit import target
from anymamba.backends.cpu.jit.emit import Kernel
from anymamba.reference import blocks

X86 = "x86_64-unknown-linux-gnu"
TARGETS = {
    "avx512-vnni": target.Target(X86, "cascadelake", "", 16, avx512=True),
    "avx2": target.Target(X86, "haswell", "", 8),
    "sse": target.Target(X86, "nehalem", "+f16c", 4, fma=False),
    "neon": target.NEON,
}


def assembly(build: object, options: tuple[object, ...], to: target.Target) -> str:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    kernel = Kernel(to)
    build(kernel, *options)  # type: ignore[operator]
    module = llvm.parse_assembly(str(kernel.finish()))
    module.verify()
    machine = llvm.Target.from_triple(to.triple).create_target_machine(to.cpu, to.features, opt=3)
    module.data_layout = str(machine.target_data)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    return str(machine.emit_assembly(module))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", blocks.BYTES)
def test_one_row_and_many(name: str, kind: str) -> None:
    to = TARGETS[name]
    one = assembly(decode_kernels.project, (kind, 100, 256, 256, 1, 2), to)
    assert assembly(widened_product_kernels.product, (kind, True, "float32", True, True, 2**16), to)
    meant = {"avx512-vnni": "vpdpwssd", "avx2": "vpmaddwd", "sse": "pmaddwd", "neon": "smlal"}
    if kind == "q4_0":  # the zero of q4_0 is added to the products; q4_1's are all there is to a block in wide registers
        assert meant[name] in one


@pytest.mark.parametrize("kind", blocks.BYTES)
def test_narrower_vectors_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine with half the lanes computes is what this one does, up to the order of sums."""
    import torch

    from anymamba import ops
    from anymamba.backends.cpu import widened_product

    if target.host().width != 8 or not target.host().f16:
        pytest.skip("for a host with AVX2")
    torch.manual_seed(0)
    weight = blocks.packed(torch.randn(40, 96), kind)
    inputs = [torch.randn(rows, 96) for rows in (1, 9)]
    wide = [ops.widened_product(a, weight, backend="cpu") for a in inputs]
    narrow = dataclasses.replace(target.host(), width=4, fma=False)
    caches = widened_product._program, widened_product._few_rows_program
    monkeypatch.setattr(target, "host", lambda: narrow)
    try:
        for cache in caches:
            cache.cache_clear()
        for a, expected in zip(inputs, wide):
            torch.testing.assert_close(ops.widened_product(a, weight, backend="cpu"), expected, rtol=1e-4, atol=1e-4)
    finally:
        monkeypatch.undo()
        for cache in caches:
            cache.cache_clear()
