"""Loads and stores of the selective scan: a row of channels, the states or the mark of one token. Values come as float32."""

from __future__ import annotations

import triton
import triton.language as tl

START = tl.constexpr(1)
PADDING = tl.constexpr(2)


@triton.jit
def load_mark(ptr, inside, FULL: tl.constexpr):
    """Of one token: START of a document, PADDING or 0."""
    if FULL:
        return tl.load(ptr)
    else:
        return tl.load(ptr, mask=inside, other=0)


@triton.jit
def load_row(ptr, live, FULL: tl.constexpr):
    """A value a channel. FULL: no block reaches over the border of the tensor, so nothing is masked."""
    if FULL:
        row = tl.load(ptr)
    else:
        row = tl.load(ptr, mask=live, other=0.0)
    return row.to(tl.float32)


@triton.jit
def store_row(ptr, row, live, FULL: tl.constexpr):
    if FULL:
        tl.store(ptr, row.to(ptr.dtype.element_ty))
    else:
        tl.store(ptr, row.to(ptr.dtype.element_ty), mask=live)


@triton.jit
def load_states(ptr, inside, N: tl.constexpr, BLOCK_N: tl.constexpr, FULL: tl.constexpr, PAIRS: tl.constexpr):
    """B or C of one token: (BLOCK_N,), zero beyond N. Every lane reads the same addresses.

    PAIRS: bfloat16 at 4-byte boundaries, N = BLOCK_N. Two values are then read as one integer and widened with one
    instruction each; the compiler takes two for every other value.
    """
    if PAIRS:
        pair = tl.arange(0, BLOCK_N // 2)
        words = ptr.to(tl.pointer_type(tl.int32)) + pair
        if FULL:
            bits = tl.load(words)
        else:
            bits = tl.load(words, mask=pair < tl.where(inside, BLOCK_N, 0), other=0)
        low = (bits << 16).to(tl.float32, bitcast=True)
        high = (bits & -65536).to(tl.float32, bitcast=True)
        return tl.reshape(tl.join(low, high), [BLOCK_N])
    else:
        n = tl.arange(0, BLOCK_N)
        if FULL and N == BLOCK_N:
            states = tl.load(ptr + n)
        else:
            states = tl.load(ptr + n, mask=n < tl.where(inside, N, 0), other=0.0)
        # taken apart and put together: costs nothing, and keeps the compiler from loading it again in a second layout
        even, odd = tl.split(tl.reshape(states.to(tl.float32), [BLOCK_N // 2, 2]))
        return tl.reshape(tl.join(even, odd), [BLOCK_N])
