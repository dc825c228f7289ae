// COUNT neighbouring channels of a step, as they lie in memory at a multiple of their size.
#pragma once
#include "lanes.cuh"

template <typename Type, int COUNT> struct Few {
    static constexpr int BYTES = COUNT * int(sizeof(Type)), WORDS = BYTES < 4 ? 1 : BYTES / 4;
    Words<WORDS> raw;

    __device__ __forceinline__ void load(const char* p, bool exists) {
        clear(raw);
        if (!exists) return;
        if constexpr (BYTES == 2) raw.w[0] = *reinterpret_cast<const unsigned short*>(p);
        else load_words(raw, p);
    }
    __device__ __forceinline__ float get(int i) const { return Format<Type>::get(raw, i); }
    static __device__ __forceinline__ void store(char* p, const float (&x)[COUNT]) {
        if constexpr (COUNT == 1) {
            Format<Type>::set(p, 0, x[0]);
        } else {
            Few to;
#pragma unroll
            for (int i = 0; i < COUNT; i += 2) Format<Type>::put(to.raw, i, x[i], x[i + 1]);
            store_words(p, to.raw);
        }
    }
};
