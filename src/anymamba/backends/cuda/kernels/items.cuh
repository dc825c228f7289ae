// ITEMS neighbouring steps of a row, read and written together. ITEMS: a constant of the file that includes this.
#pragma once
#include "lanes.cuh"

// ITEMS neighbouring steps, as they lie in memory at a multiple of that many BYTES.
template <typename Type, int BYTES> struct Items {
    static constexpr int WORDS = ITEMS * int(sizeof(Type)) / 4;
    Raw<Type, ITEMS> raw;

    __device__ __forceinline__ void load_whole(const char* p) {
        if constexpr (BYTES >= 16) {
            load_words(raw, p);
        } else if constexpr (BYTES == 8) {
#pragma unroll
            for (int i = 0; i < WORDS; i += 2) {
                const uint2 v = *reinterpret_cast<const uint2*>(p + 4 * i);
                raw.w[i] = v.x, raw.w[i + 1] = v.y;
            }
        } else if constexpr (BYTES == 4) {
#pragma unroll
            for (int i = 0; i < WORDS; i++) raw.w[i] = *reinterpret_cast<const unsigned*>(p + 4 * i);
        } else {
            const unsigned short* q = reinterpret_cast<const unsigned short*>(p);
#pragma unroll
            for (int i = 0; i < WORDS; i++) raw.w[i] = unsigned(q[2 * i]) | unsigned(q[2 * i + 1]) << 16;
        }
    }
    // steps: how many of them exist; the others become zero
    __device__ __forceinline__ void load(const char* p, i64 steps) {
        if (steps >= ITEMS) {
            load_whole(p);
        } else {
            clear(raw);
            for (int i = 0; i < ITEMS; i++)
                if (i < steps) put_bits(i, p);
        }
    }
    __device__ __forceinline__ void put_bits(int i, const char* p) {
        if constexpr (sizeof(Type) == 4) {
            const unsigned v = reinterpret_cast<const unsigned*>(p)[i];
#pragma unroll
            for (int k = 0; k < WORDS; k++) raw.w[k] = k == i ? v : raw.w[k];
        } else {
            const unsigned v = unsigned(reinterpret_cast<const unsigned short*>(p)[i]) << (i & 1 ? 16 : 0);
#pragma unroll
            for (int k = 0; k < WORDS; k++) raw.w[k] |= k == i / 2 ? v : 0u;
        }
    }
    __device__ __forceinline__ float get(int i) const { return Format<Type>::get(raw, i); }
};

template <typename Type, int BYTES> __device__ __forceinline__ void write_items(char* p, const float (&x)[ITEMS], i64 steps) {
    Raw<Type, ITEMS> raw;
    constexpr int WORDS = ITEMS * int(sizeof(Type)) / 4;
#pragma unroll
    for (int i = 0; i < ITEMS; i += 2) Format<Type>::put(raw, i, x[i], x[i + 1]);
    if (steps >= ITEMS && BYTES >= 4) {
        if constexpr (BYTES >= 16) {
            store_words(p, raw);
        } else if constexpr (BYTES == 8) {
#pragma unroll
            for (int i = 0; i < WORDS; i += 2) *reinterpret_cast<uint2*>(p + 4 * i) = make_uint2(raw.w[i], raw.w[i + 1]);
        } else {
#pragma unroll
            for (int i = 0; i < WORDS; i++) *reinterpret_cast<unsigned*>(p + 4 * i) = raw.w[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < ITEMS; i++)
            if (i < steps) {
                if constexpr (sizeof(Type) == 4) reinterpret_cast<unsigned*>(p)[i] = raw.w[i];
                else reinterpret_cast<unsigned short*>(p)[i] = static_cast<unsigned short>(raw.w[i / 2] >> (i & 1 ? 16 : 0));
            }
    }
}
