"""The CUDA C++ kernels compile for GPUs that are not here, by the NVRTC that users have, fit their shared memory, and do not spill.

The quick run compiles those of Mamba-1's scan for one size and the fused steps of the smallest models, for all targets. The whole:

    python -m pytest tests/backends/triton/test_cuda_ahead_of_time.py -m slow
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from tests.backends.cuda import cuda_sources

pytestmark = pytest.mark.skipif(bool(cuda_sources.compiler()), reason=cuda_sources.compiler() or "-")

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

STEP_SPILLED = 8
"""Bytes a lane that a fused step may spill. 512 threads leave 128 registers each, and which of a few models on which target comes out
a pair of them short changes with every version of the compiler: an access to the first-level cache a layer, beside 30 µs."""


ROWS_SPILLED = 32
"""Bytes a lane that the forward scan of rows may: what is needed once a tile, beside a loop over states of a thousand instructions. With
168 registers there are no such bytes, and a quarter fewer warps: 15 % slower on an H200."""


def _compile(sources: list[cuda_sources.Source], target: str) -> None:
    assert sources
    spilled = [ROWS_SPILLED if source.file == "rows_forward.cu" else 0 for source in sources]
    found = [text for text in map(cuda_sources.wrong, sources, [target] * len(sources), spilled) if text]
    assert not found, f"{len(found)} of {len(sources)} kernels\n" + "\n".join(found)


# quick: the oldest, whose instructions all others have, and the one of most users' cards
@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=() if name in ("sm_80", "sm_120") else pytest.mark.slow) for name in cuda_sources.CAPABILITIES]
)
def test_one_of_each_kernel(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda_sources.on(target, monkeypatch) as sources:
        cuda_sources.scan_calls(torch.bfloat16, ((1, 64, 2048), (1, 1536, 2048)))
        cuda_sources.rows_calls(torch.bfloat16, (16,))
        cuda_sources.conv_calls(torch.bfloat16, (4,))
        steps = [cuda_sources.step_of(config, torch.bfloat16, False) for name, config in cuda_sources.models().items() if "130m" in name]
    assert None not in steps
    one = {source.file: source for source in reversed(sources)}
    assert len(one) == 13
    _compile(list(one.values()), target)
    assert not [text for text in (cuda_sources.wrong(step, target, STEP_SPILLED) for step in steps if step) if text]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", cuda_sources.CAPABILITIES)
def test_scans(target: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda_sources.on(target, monkeypatch) as sources:
        cuda_sources.scan_calls(dtype)
    _compile(sources, target)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", cuda_sources.CAPABILITIES)
def test_scans_of_rows(target: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda_sources.on(target, monkeypatch) as sources:
        cuda_sources.rows_calls(dtype)
    _compile(sources, target)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", cuda_sources.CAPABILITIES)
def test_convolutions_and_packed_scans(target: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda_sources.on(target, monkeypatch) as sources:
        cuda_sources.conv_calls(dtype)
        cuda_sources.documents_calls(dtype)
    _compile(sources, target)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8], ids=str)
@pytest.mark.parametrize("target", cuda_sources.CAPABILITIES)
def test_fused_steps(target: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    made, failed = 0, []
    for name, config in cuda_sources.models().items():
        with cuda_sources.on(target, monkeypatch):
            step = cuda_sources.step_of(config, torch.bfloat16 if dtype == torch.int8 else dtype, dtype == torch.int8)
        if step is not None:
            made += 1
            failed.append((name, cuda_sources.wrong(step, target, STEP_SPILLED)))
    assert made >= 10
    assert not [text for text in failed if text[1]]
