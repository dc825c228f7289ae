"""Layer norm and RMS norm of rows, with a residual before and a gate before or after: forward and backward, one read of each input.

Statistics are float32. A program of the backward pass takes many rows and keeps its share of the weight gradients in registers;
the shares are added up outside, in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from anymamba.backends.triton.elementary import sigmoid


@triton.jit
def norm_forward_kernel(
    x_ptr, residual_ptr, z_ptr, weight_ptr, bias_ptr, y_ptr, sum_ptr, mean_ptr, scale_ptr,
    x_row, residual_row, z_row, y_row, sum_row, rows, width, eps,
    BLOCK: tl.constexpr, RMS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, STORE_SUM: tl.constexpr,
    HAS_Z: tl.constexpr, NORM_FIRST: tl.constexpr,
):  # fmt: skip
    """Grid: (rows, groups). Row r of group g is columns g * width to (g + 1) * width of row r in memory.

    s = x + residual (stored if STORE_SUM) or x * silu(z); y = norm(s) * weight + bias, times silu(z) with NORM_FIRST.
    mean, scale: (rows, groups), what the backward pass needs: y = (s - mean) * scale * weight.
    """
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    ok = column < width
    at = group * width + column
    s = tl.load(x_ptr + row * x_row + at, mask=ok, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        s += tl.load(residual_ptr + row * residual_row + at, mask=ok, other=0.0).to(tl.float32)
    if STORE_SUM:
        tl.store(sum_ptr + row * sum_row + at, s.to(sum_ptr.dtype.element_ty), mask=ok)
    if HAS_Z:
        z = tl.load(z_ptr + row * z_row + at, mask=ok, other=0.0).to(tl.float32)
        gate = z * sigmoid(z, z_ptr.dtype.element_ty)
        if not NORM_FIRST:
            s *= gate
    index = row * tl.num_programs(1) + group
    if not RMS:
        mean = tl.sum(s, axis=0) / width
        tl.store(mean_ptr + index, mean)
        s = tl.where(ok, s - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(s * s, axis=0) / width + eps)
    tl.store(scale_ptr + index, scale)
    y = s * scale * tl.load(weight_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y += tl.load(bias_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if HAS_Z and NORM_FIRST:
        y *= gate
    tl.store(y_ptr + row * y_row + at, y.to(y_ptr.dtype.element_ty), mask=ok)


@triton.jit
def norm_backward_kernel(
    x_ptr, residual_ptr, z_ptr, weight_ptr, bias_ptr, mean_ptr, scale_ptr, dy_ptr, dsum_ptr,
    dx_ptr, dresidual_ptr, dz_ptr, dweight_ptr, dbias_ptr,
    x_row, residual_row, z_row, dy_row, dsum_row, dx_row, dresidual_row, dz_row, rows, width, rows_per_program,
    BLOCK: tl.constexpr, RMS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_DSUM: tl.constexpr,
    STORE_DRESIDUAL: tl.constexpr, HAS_Z: tl.constexpr, NORM_FIRST: tl.constexpr, ACCUMULATE: tl.constexpr,
    REREAD: tl.constexpr,
):  # fmt: skip
    """Grid: (programs, groups). dsum: gradient of the stored sum. dweight, dbias: (programs, groups * width) float32,
    with ACCUMULATE; else norm_weight_backward_kernel computes them. REREAD: with a gate before, read x and z again, not keep them."""
    group = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    ok = column < width
    at = group * width + column
    weight = tl.load(weight_ptr + at, mask=ok, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK], tl.float32)
    dbias = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + at, mask=ok, other=0.0).to(tl.float32)
    first = tl.program_id(0) * rows_per_program
    for r in range(first, tl.minimum(first + rows_per_program, rows)):
        row = tl.cast(r, tl.int64)
        x = tl.load(x_ptr + row * x_row + at, mask=ok, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_row + at, mask=ok, other=0.0).to(tl.float32)
        s = x
        if HAS_RESIDUAL:
            s += tl.load(residual_ptr + row * residual_row + at, mask=ok, other=0.0).to(tl.float32)
        if HAS_Z:
            z = tl.load(z_ptr + row * z_row + at, mask=ok, other=0.0).to(tl.float32)
            slope = sigmoid(z, z_ptr.dtype.element_ty)
            gate = z * slope
            slope = slope * (1.0 + z * (1.0 - slope))
            if not NORM_FIRST:
                s = x * gate
        index = row * tl.num_programs(1) + group
        scale = tl.load(scale_ptr + index)
        if not RMS:
            s = tl.where(ok, s - tl.load(mean_ptr + index), 0.0)
        normal = s * scale
        if HAS_Z and NORM_FIRST:
            affine = normal * weight
            if HAS_BIAS:
                affine += bias
            tl.store(dz_ptr + row * dz_row + at, (dy * affine * slope).to(dz_ptr.dtype.element_ty), mask=ok)
            dy *= gate
        if ACCUMULATE:
            dweight += dy * normal
            if HAS_BIAS:
                dbias += dy
        dnormal = dy * weight
        projection = tl.sum(dnormal * normal, axis=0) / width
        ds = dnormal - normal * projection
        if not RMS:
            ds -= tl.sum(dnormal, axis=0) / width
        ds *= scale
        if HAS_DSUM:
            ds += tl.load(dsum_ptr + row * dsum_row + at, mask=ok, other=0.0).to(tl.float32)
        if HAS_Z and not NORM_FIRST:
            if REREAD:
                # with another policy than before, or the compiler would keep what it has read
                x = tl.load(x_ptr + row * x_row + at, mask=ok, other=0.0, eviction_policy="evict_first").to(tl.float32)
                z = tl.load(z_ptr + row * z_row + at, mask=ok, other=0.0, eviction_policy="evict_first").to(tl.float32)
                slope = sigmoid(z, z_ptr.dtype.element_ty)
                gate = z * slope
                slope = slope * (1.0 + z * (1.0 - slope))
            tl.store(dz_ptr + row * dz_row + at, (ds * x * slope).to(dz_ptr.dtype.element_ty), mask=ok)
            ds *= gate
        tl.store(dx_ptr + row * dx_row + at, ds.to(dx_ptr.dtype.element_ty), mask=ok)
        if STORE_DRESIDUAL:
            tl.store(dresidual_ptr + row * dresidual_row + at, ds.to(dresidual_ptr.dtype.element_ty), mask=ok)
    if ACCUMULATE:
        place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) * width + at
        tl.store(dweight_ptr + place, dweight, mask=ok)
        if HAS_BIAS:
            tl.store(dbias_ptr + place, dbias, mask=ok)


@triton.jit
def norm_weight_backward_kernel(
    x_ptr, z_ptr, mean_ptr, scale_ptr, dy_ptr, dweight_ptr, dbias_ptr, x_row, z_row, dy_row, rows, width, rows_per_program,
    BLOCK: tl.constexpr, RMS: tl.constexpr, HAS_BIAS: tl.constexpr, NORM_FIRST: tl.constexpr,
):  # fmt: skip
    """dweight and dbias of norm_backward_kernel with a gate, where a row is too wide for a program to keep both in registers.
    Grid: (programs, blocks of columns, groups)."""
    group = tl.program_id(2)
    groups = tl.num_programs(2)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = column < width
    at = group * width + column
    dweight = tl.zeros([BLOCK], tl.float32)
    dbias = tl.zeros([BLOCK], tl.float32)
    first = tl.program_id(0) * rows_per_program
    for r in range(first, tl.minimum(first + rows_per_program, rows)):
        row = tl.cast(r, tl.int64)
        s = tl.load(x_ptr + row * x_row + at, mask=ok, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_row + at, mask=ok, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + row * z_row + at, mask=ok, other=0.0).to(tl.float32)
        if NORM_FIRST:
            dy *= z * sigmoid(z, z_ptr.dtype.element_ty)
        else:
            s *= z * sigmoid(z, z_ptr.dtype.element_ty)
        index = row * groups + group
        if not RMS:
            s -= tl.load(mean_ptr + index)
        dweight += dy * s * tl.load(scale_ptr + index)
        if HAS_BIAS:
            dbias += dy
    place = tl.program_id(0).to(tl.int64) * groups * width + at
    tl.store(dweight_ptr + place, dweight, mask=ok)
    if HAS_BIAS:
        tl.store(dbias_ptr + place, dbias, mask=ok)
