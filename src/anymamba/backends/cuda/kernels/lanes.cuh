// Types, scalar functions and lane exchanges that the scan kernels share. No header of the CUDA toolkit is needed.
#pragma once

typedef long long i64;

#ifndef EMULATED
__device__ __forceinline__ float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
// These pass NaN on, unlike fmaxf and fminf.
__device__ __forceinline__ float at_least(float x, float low) { float y; asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(low)); return y; }
__device__ __forceinline__ float at_most(float x, float high) { float y; asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(high)); return y; }
__device__ __forceinline__ float exchange(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
// From the lane that many places before or after, among WIDTH neighbours; a lane that has none there gets its own value.
template <int WIDTH> __device__ __forceinline__ float from_before(float x, int places) { return __shfl_up_sync(0xffffffffu, x, places, WIDTH); }
template <int WIDTH> __device__ __forceinline__ float from_after(float x, int places) { return __shfl_down_sync(0xffffffffu, x, places, WIDTH); }
// One step of a scan of x -> decay * x + added over WIDTH neighbouring lanes: appended to that of the lane PLACES before (or after), where
// there is one. As the predicate of the exchange says; from the same in C++ come two moves for each.
template <int WIDTH, int PLACES> __device__ __forceinline__ void append_before(float& decay, float& added) {
    asm volatile("{.reg .pred p; .reg .f32 a, h; shfl.sync.up.b32 a|p, %0, %2, %3, 0xffffffff; shfl.sync.up.b32 h, %1, %2, %3, 0xffffffff;"
                 "@p fma.rn.f32 %1, %0, h, %1; @p mul.f32 %0, %0, a;}" : "+f"(decay), "+f"(added) : "n"(PLACES), "n"((32 - WIDTH) << 8));
}
template <int WIDTH, int PLACES> __device__ __forceinline__ void append_after(float& decay, float& added) {
    asm volatile("{.reg .pred p; .reg .f32 a, h; shfl.sync.down.b32 a|p, %0, %2, %3, 0xffffffff; shfl.sync.down.b32 h, %1, %2, %3, 0xffffffff;"
                 "@p fma.rn.f32 %1, %0, h, %1; @p mul.f32 %0, %0, a;}" : "+f"(decay), "+f"(added) : "n"(PLACES), "n"((32 - WIDTH) << 8 | 31));
}
// 16 bytes from global to shared memory while the thread goes on; those of a group have arrived once at most LEFT later ones are under way.
__device__ __forceinline__ void fetch_16_bytes(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from) : "memory");
}
__device__ __forceinline__ void end_fetches() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void await_fetches() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
// Keeps a value in its register: the compiler would rather compute it again, many times.
__device__ __forceinline__ void hold(float& x) { asm volatile("" : "+f"(x)); }
// That many threads of the block, whole warps, wherever each of them is in the code.
template <int THREADS> __device__ __forceinline__ void meet() { asm volatile("bar.sync 0, %0;" :: "n"(THREADS) : "memory"); }
__device__ __forceinline__ float from_half(unsigned bits) {
    float y;
    asm("{.reg .f16 t; mov.b16 t, %1; cvt.f32.f16 %0, t;}" : "=f"(y) : "h"((unsigned short)bits));
    return y;
}
__device__ __forceinline__ unsigned two_bf16(float low, float high) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
__device__ __forceinline__ unsigned two_half(float low, float high) {
    unsigned y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
#endif

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

template <int WORDS> struct Words { unsigned w[WORDS]; };

// E neighbouring values of type Type, as they lie in memory.
template <typename Type, int E> using Raw = Words<E * int(sizeof(Type)) / 4>;

template <int WORDS> __device__ __forceinline__ void load_words(Words<WORDS>& to, const void* from) {
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++) {
            const uint4 v = reinterpret_cast<const uint4*>(from)[i];
            to.w[4 * i] = v.x, to.w[4 * i + 1] = v.y, to.w[4 * i + 2] = v.z, to.w[4 * i + 3] = v.w;
        }
    } else if constexpr (WORDS == 2) {
        const uint2 v = *reinterpret_cast<const uint2*>(from);
        to.w[0] = v.x, to.w[1] = v.y;
    } else {
        to.w[0] = *reinterpret_cast<const unsigned*>(from);
    }
}

template <int WORDS> __device__ __forceinline__ void store_words(void* to, const Words<WORDS>& from) {
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++)
            reinterpret_cast<uint4*>(to)[i] = make_uint4(from.w[4 * i], from.w[4 * i + 1], from.w[4 * i + 2], from.w[4 * i + 3]);
    } else if constexpr (WORDS == 2) {
        *reinterpret_cast<uint2*>(to) = make_uint2(from.w[0], from.w[1]);
    } else {
        *reinterpret_cast<unsigned*>(to) = from.w[0];
    }
}

template <int WORDS> __device__ __forceinline__ void clear(Words<WORDS>& x) {
#pragma unroll
    for (int i = 0; i < WORDS; i++) x.w[i] = 0u;
}

// Widening and narrowing between memory and float.
template <typename Type> struct Format;
template <> struct Format<float> {
    template <int W> static __device__ __forceinline__ float get(const Words<W>& x, int i) { return __uint_as_float(x.w[i]); }
    template <int W> static __device__ __forceinline__ void put(Words<W>& x, int i, float low, float high) {
        x.w[i] = __float_as_uint(low), x.w[i + 1] = __float_as_uint(high);
    }
    static __device__ __forceinline__ float one(const void* p, i64 i) { return static_cast<const float*>(p)[i]; }
    static __device__ __forceinline__ void set(void* p, i64 i, float x) { static_cast<float*>(p)[i] = x; }
};
template <> struct Format<bf16> {
    template <int W> static __device__ __forceinline__ float get(const Words<W>& x, int i) {
        return __uint_as_float(i & 1 ? x.w[i / 2] & 0xffff0000u : x.w[i / 2] << 16);
    }
    template <int W> static __device__ __forceinline__ void put(Words<W>& x, int i, float low, float high) {
        x.w[i / 2] = two_bf16(low, high);
    }
    static __device__ __forceinline__ float one(const void* p, i64 i) {
        return __uint_as_float(unsigned(static_cast<const unsigned short*>(p)[i]) << 16);
    }
    static __device__ __forceinline__ void set(void* p, i64 i, float x) {
        static_cast<unsigned short*>(p)[i] = static_cast<unsigned short>(two_bf16(x, 0.0f));
    }
};
template <> struct Format<f16> {
    template <int W> static __device__ __forceinline__ float get(const Words<W>& x, int i) {
        return from_half(i & 1 ? x.w[i / 2] >> 16 : x.w[i / 2] & 0xffffu);
    }
    template <int W> static __device__ __forceinline__ void put(Words<W>& x, int i, float low, float high) {
        x.w[i / 2] = two_half(low, high);
    }
    static __device__ __forceinline__ float one(const void* p, i64 i) { return from_half(static_cast<const unsigned short*>(p)[i]); }
    static __device__ __forceinline__ void set(void* p, i64 i, float x) {
        static_cast<unsigned short*>(p)[i] = static_cast<unsigned short>(two_half(x, 0.0f));
    }
};

constexpr float LOG2E = 1.4426950408889634f;
// 2^x on the pipes of multiplication and addition: 2^f for |f| <= 1/2 by a polynomial of relative error 2e-9, rounded to float32 at the
// end, the whole part of x added to the exponent.
__device__ __forceinline__ float exp2_polynomial(float x) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the rounded x
    const float bounded = at_most(at_least(x, -126.0f), 127.0f), j = bounded + shift, f = bounded - (j - shift);
    float p = fmaf(f, 0.00015353362f, 0.0013398875f);
    p = fmaf(p, f, 0.009618437f);
    p = fmaf(p, f, 0.055503324f);
    p = fmaf(p, f, 0.24022648f);
    p = fmaf(p, f, 0.69314718f);
    p = fmaf(p, f, 1.0f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(j) << 23));
}

constexpr float LN2 = 0.6931471805599453f;

// log(1 + exp(x)); relative error of log1p 1.7e-7 by a polynomial, for log2(1 + e) would lose the digits of small steps.
__device__ __forceinline__ float softplus(float x) {
    const float e = exp2_fast(-fabsf(x) * LOG2E);
    float p = fmaf(e, 0.005232690833508968f, -0.029505228623747826f);
    p = fmaf(p, e, 0.07822594791650772f);
    p = fmaf(p, e, -0.13663245737552643f);
    p = fmaf(p, e, 0.19106008112430573f);
    p = fmaf(p, e, -0.2484298199415207f);
    p = fmaf(p, e, 0.3331909775733948f);
    p = fmaf(p, e, -0.4999949336051941f);
    p = fmaf(p, e, 0.9999999403953552f);
    return fmaf(p, e, fmaxf(x, 0.0f));
}

__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + exp2_fast(-x * LOG2E)); }

// COUNT floats at a multiple of min(16, 4 * COUNT) bytes.
template <int COUNT> __device__ __forceinline__ void load_floats(float (&to)[COUNT], const float* from) {
    if constexpr (COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            const float4 v = *reinterpret_cast<const float4*>(from + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else if constexpr (COUNT == 2) {
        const float2 v = *reinterpret_cast<const float2*>(from);
        to[0] = v.x, to[1] = v.y;
    } else {
        to[0] = *from;
    }
}

template <int COUNT> __device__ __forceinline__ void store_floats(float* to, const float (&from)[COUNT]) {
    if constexpr (COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4)
            *reinterpret_cast<float4*>(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    } else if constexpr (COUNT == 2) {
        *reinterpret_cast<float2*>(to) = make_float2(from[0], from[1]);
    } else {
        *to = from[0];
    }
}

// Sums COUNT values over the LANES lanes whose numbers differ by multiples of STRIDE; each keeps COUNT / LANES of the sums:
// lane k of them has sums k * COUNT / LANES and following in v[0...]. Half of the values change hands at every step, so the
// exchanges are fewer than values.
template <int COUNT, int LANES, int STRIDE> __device__ __forceinline__ void sum_and_share(float* v, int lane) {
    if constexpr (LANES > 1) {
        constexpr int MASK = LANES / 2 * STRIDE, HALF = COUNT / 2;
        const bool upper = lane & MASK;
#pragma unroll
        for (int i = 0; i < HALF; i++) {
            const float give = upper ? v[i] : v[i + HALF], keep = upper ? v[i + HALF] : v[i];
            v[i] = keep + exchange(give, MASK);
        }
        sum_and_share<HALF, LANES / 2, STRIDE>(v, lane);
    }
}
