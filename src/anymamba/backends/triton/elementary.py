"""Scalar functions that several kernels share. All take and return float32."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def exp(x):
    """exp2 is one instruction of the special function unit; exp is not."""
    return tl.exp2(x * LOG2E)


@triton.jit
def exp2_precise(x):
    """2^x to half a unit in the last place: 2^f for |f| <= 1/2 by a polynomial of relative error 2e-9, the whole part of x added to
    the exponent."""
    shift: tl.constexpr = 12582912.0  # 1.5 * 2^23: the sum's low bits are the rounded x
    x = tl.maximum(x, -126.0, propagate_nan=tl.PropagateNan.ALL)
    x = tl.minimum(x, 127.0, propagate_nan=tl.PropagateNan.ALL)
    whole = x + shift
    f = x - (whole - shift)
    p = f * 0.00015353361959569156 + 0.0013398875016719103
    p = p * f + 0.00961843691766262
    p = p * f + 0.055503323674201965
    p = p * f + 0.24022647738456726
    p = p * f + 0.6931471824645996
    p = p * f + 1.0
    return (p.to(tl.int32, bitcast=True) + (whole.to(tl.int32, bitcast=True) << 23)).to(tl.float32, bitcast=True)


@triton.jit
def decay_of(power, PRECISE: tl.constexpr):
    """2^power, the factor of a state over one step or several. The unit behind exp2 errs by up to 2^-22, and in one direction over a
    range of x: a state that decays slowly adds that up over its memory. PRECISE, for float32 inputs: not on that unit. Beside the
    rounding of 16-bit inputs it is nothing."""
    if PRECISE:
        return exp2_precise(power)
    else:
        return tl.exp2(power)


@triton.jit
def log1p_unit(x):
    """log(1 + x) for x in [0, 1], relative error 1.7e-7.

    x times a polynomial of degree 8, fitted for the smallest relative error. log2(1 + x) would lose the digits of a small x,
    which is where the step sizes of a trained model lie, and is a slow software routine on some devices.
    """
    p = x * 0.005232690833508968 - 0.029505228623747826
    p = p * x + 0.07822594791650772
    p = p * x - 0.13663245737552643
    p = p * x + 0.19106008112430573
    p = p * x - 0.2484298199415207
    p = p * x + 0.3331909775733948
    p = p * x - 0.4999949336051941
    p = p * x + 0.9999999403953552
    return p * x


@triton.jit
def softplus(x):
    """log(1 + exp(x)), without overflow; equal to x in float32 from 17 on, so upstream's threshold of 20 is met."""
    return tl.maximum(x, 0.0) + log1p_unit(tl.exp2(-tl.abs(x) * LOG2E))


@triton.jit
def sigmoid(x, dtype: tl.constexpr = tl.float32):
    """1 / (1 + exp(-x)); 0, not NaN, where exp overflows. dtype: of what it is computed for. With 16 bits the division, six instructions,
    is a root's inverse, one, squared, which errs by 2.5e-7."""
    below = 1.0 + tl.exp2(-x * LOG2E)
    if dtype.primitive_bitwidth == 16:
        root = tl.rsqrt(below)
        return root * root
    else:
        return 1.0 / below


@triton.jit
def silu(x):
    return x * sigmoid(x)


@triton.jit
def silu_slope(x):
    """Derivative of silu."""
    s = sigmoid(x)
    return s * (1.0 + x * (1.0 - s))
