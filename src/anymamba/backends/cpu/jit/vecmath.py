"""Elementary functions of float32 vectors for kernels, as polynomials: errors are within a few units in the last place.

Coefficients are minimax fits of the relative error; those of 2**r are bound to 1 at r = 0, so that a step size of zero
decays by exactly 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llvmlite import ir

from anymamba.backends.cpu.jit.emit import Value
from anymamba.backends.cpu.jit.values import F32, I16, I32

LOG2E = math.log2(math.e)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.1219444005469057e-4
"""ln 2 in two parts, of which a whole number times the first is exact: exp of a large argument stays as good as of a small one."""

_EXP2 = (
    1.0, 0.6931472028551364, 0.24022647913624315, 0.05550332470946841, 0.009618437357734471, 0.0013398874492311723,
    0.00015353362061360995,
)  # fmt: skip
"""2**r on [-1/2, 1/2], relative error 2.0e-9. Degree 5 (9.1e-8, a tenth faster in the scan) trebles the error of the gradient of A:
the error of a polynomial has the same sign at every step, while rounding averages out."""

_EXP2_SIXTEENTH = (0.6931471826666455, 0.2402342880352106, 0.05550213649679819)
"""(2**r - 1) / r on [-1/32, 1/32]; the relative error of 2**r is 1.6e-9."""

_EXP = tuple(coefficient / math.log(2) ** power for power, coefficient in enumerate(_EXP2))
"""e**r on [-ln(2)/2, ln(2)/2]."""

_EXP_TAYLOR = tuple(1 / math.factorial(power) for power in range(8))
"""e**r on [-ln(2)/2, ln(2)/2], relative error 5e-9."""

_ATANH = (2.0000000079210483, 0.666663146818613, 0.40024910287540655, 0.279606026763411, 0.28178335257392556)
"""2 atanh(s) / s as a polynomial in s*s on [0, 1/9], relative error 4.0e-9."""

_SINE = (1.0, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880)
_COSINE = (1.0, -0.5, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800)
"""Taylor's series of sin(x) / x and cos(x) in x*x: on [-pi/4, pi/4] errors are below 2e-9."""

_ROUND = 12582912.0
"""1.5 * 2**23: added to a float below 2**22 in magnitude, it leaves the nearest integer in the low bits."""


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's rule, the constant first."""
    k = x.k
    result = k.vector(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def exp2(x: Value) -> Value:
    """2**x. Without AVX-512, x is first limited to [-126, 127]."""
    if x.k.target.avx512:
        return _exp2_by_table(x)
    x = _limited(x, 1.0)
    whole = _nearest(x)
    return _scaled(polynomial(x - whole, _EXP2), whole)


def _exp2_by_table(x: Value) -> Value:
    """2**x = 2**k 2**(i/16) 2**r with r in [-1/32, 1/32]. The sixteen 2**(i/16) are one register; looking one up, like rounding and
    scaling, runs beside the multiply-adds, of which a polynomial on [-1/2, 1/2] needs two more: 15% less time in the scan (Zen 4)."""
    k = x.k
    sixteenths = k.intrinsic("llvm.x86.avx512.mask.rndscale.ps.512", x.ir.type, x, I32(0x48), x, I16(-1), I32(4))
    r = x - sixteenths
    # the sum has i in its low four bits
    index = k.builder.bitcast((x + _ROUND / 16).ir, ir.VectorType(I32, 16))
    table = ir.Constant(x.ir.type, [2.0 ** (i / 16) for i in range(16)])
    root = k.intrinsic("llvm.x86.avx512.permvar.sf.512", x.ir.type, table, index)
    return scale_avx512(root + root * r * polynomial(r, _EXP2_SIXTEENTH), sixteenths)


def exp(x: Value, coefficients: Sequence[float] = _EXP) -> Value:
    """e**x. Without AVX-512, x is first limited as in exp2."""
    k = x.k
    x = _limited(x, LOG2E)
    whole = _nearest(x * LOG2E)
    rest = k.fma(whole, -_LN2_LOW, k.fma(whole, -_LN2_HIGH, x))
    return _scaled(polynomial(rest, coefficients), whole)


def exp_for_products(x: Value) -> Value:
    """e**x for factors of which many are multiplied: the error of exp has one sign over a range of x and would add up."""
    return exp(x, _EXP_TAYLOR)


def _limited(x: Value, log2_base: float) -> Value:
    k = x.k
    return x if k.target.avx512 else k.minimum(127.0 / log2_base, k.maximum(-126.0 / log2_base, x))


def _nearest(x: Value) -> Value:
    """The nearest whole number, as a float."""
    return round_avx512(x) if x.k.target.avx512 else x + _ROUND - _ROUND


def _scaled(x: Value, power: Value) -> Value:
    """x * 2**power for a whole power; without AVX-512 by adding to the exponent's bits, x in [1/2, 2), -126 <= power <= 127."""
    k = x.k
    if k.target.avx512:
        return scale_avx512(x, power)
    integers = ir.VectorType(I32, k.width)
    exponent = k.builder.shl(k.builder.bitcast((power + _ROUND).ir, integers), ir.Constant(integers, [23] * k.width))
    return k.wrap(k.builder.bitcast(k.builder.add(k.builder.bitcast(x.ir, integers), exponent), x.ir.type))


def round_avx512(x: Value) -> Value:
    """To the nearest integer, one instruction (vrndscaleps; imm 8: nearest even, no exceptions)."""
    return x.k.intrinsic("llvm.x86.avx512.mask.rndscale.ps.512", x.ir.type, x, I32(8), x, I16(-1), I32(4))


def scale_avx512(x: Value, power: Value) -> Value:
    """x * 2**floor(power), one instruction (vscalefps), with gradual underflow and overflow to infinity."""
    return x.k.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", x.ir.type, x, power, x, I16(-1), I32(4))


def sigmoid(x: Value) -> Value:
    return 1.0 / (1.0 + exp(-x))


def silu(x: Value) -> Value:
    return x / (1.0 + exp(-x))


def silu_derivative(x: Value) -> Value:
    """d silu(x) / dx = s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    s = sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def log1p_of_fraction(x: Value) -> Value:
    """log(1 + x) for x in [0, 1], as 2 atanh(x / (2 + x))."""
    s = x / (x + 2.0)
    return s * polynomial(s * s, _ATANH)


def absolute(x: Value) -> Value:
    return x.k.intrinsic(f"llvm.fabs.v{x.k.width}f32", ir.VectorType(F32, x.k.width), x)


def softplus(x: Value) -> Value:
    """log(1 + exp(x)) without overflow. Upstream returns x itself above 20, where the two agree in float32."""
    return log1p_of_fraction(exp(-absolute(x))) + x.k.select(x > 0.0, x, 0.0)


def softplus_and_derivative(x: Value) -> tuple[Value, Value]:
    """softplus(x) and sigmoid(x), from one exponential."""
    positive, e = x > 0.0, exp(-absolute(x))
    value = log1p_of_fraction(e) + x.k.select(positive, x, 0.0)
    return value, x.k.select(positive, 1.0, e) / (e + 1.0)


def sqrt(x: Value) -> Value:
    return x.k.intrinsic(f"llvm.sqrt.v{x.k.width}f32", ir.VectorType(F32, x.k.width), x)


def tanh(x: Value) -> Value:
    """Absolute error within a few 1e-8; a small x loses digits, which what is added up does not show."""
    return 1.0 - 2.0 / (1.0 + exp(x * 2.0))


def fraction(turns: Value) -> Value:
    """turns less the nearest whole number, -1/2 to 1/2; |turns| below 2**21."""
    return turns - _nearest(turns)


def cosine_and_sine(turns: Value) -> tuple[Value, Value]:
    """Of 2 pi turns, |turns| at most 1/2: the quarter by its whole part, series over an eighth of a turn either way."""
    k = turns.k
    quarters = turns * 4.0
    whole = _nearest(quarters)
    x = (quarters - whole) * (math.pi / 2)
    square = x * x
    sine, cosine = x * polynomial(square, _SINE), polynomial(square, _COSINE)
    size = absolute(whole)
    odd = size.equals(1.0)
    # the odd quarters swap the two, and either changes its sign on half of the circle
    sign = k.select(whole < 0.0, -1.0, 1.0)
    first = k.select(odd, -sign * sine, k.select(size > 1.0, -cosine, cosine))
    second = k.select(odd, sign * cosine, k.select(size > 1.0, -sine, sine))
    return first, second
