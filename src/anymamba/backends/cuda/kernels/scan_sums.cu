// Adds up what the blocks of scan_backward left, in a fixed order: dB and dC over blocks of channels, dA, dD and dbias over
// batch and chunks. A thread adds four neighbouring values; the grid is cut into the five parts by first_block.
#include "lanes.cuh"

struct SumArguments {
    const float *dB, *dC, *dA, *dD, *dbias;
    char *to_B, *to_C, *to_A, *to_D, *to_bias;
    i64 tokens, blocks;                 // values of dB, and how often
    i64 channels, states, rows;         // dA: (rows, states, channels) to (channels, states); dD, dbias: (rows, channels)
    i64 start_C, start_A, start_D, start_bias;  // first block of the grid for each
};

__device__ __forceinline__ float4 add_up(const float* p, i64 count, i64 stride) {
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (i64 i = 0; i < count; i++) {
        const float4 v = *reinterpret_cast<const float4*>(p + i * stride);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    return sum;
}

template <typename Type> __device__ __forceinline__ void write(char* to, i64 i, float4 v) {
    Raw<Type, 4> out;
    Format<Type>::put(out, 0, v.x, v.y);
    Format<Type>::put(out, 2, v.z, v.w);
    store_words(to + i * sizeof(Type), out);
}

// One value, at any address.
template <typename Type> __device__ __forceinline__ void write_one(char* to, i64 i, float x) {
    Words<1> out;
    Format<Type>::put(out, 0, x, 0.0f);
    reinterpret_cast<unsigned short*>(to)[i] = (unsigned short)out.w[0];
}
template <> __device__ __forceinline__ void write_one<float>(char* to, i64 i, float x) { reinterpret_cast<float*>(to)[i] = x; }

extern "C" __global__ void __launch_bounds__(256) scan_sums(const SumArguments p) {
    const i64 block = blockIdx.x;
    if (block < p.start_A) {
        const bool is_C = block >= p.start_C;
        const i64 i = ((block - (is_C ? p.start_C : 0)) * 256 + threadIdx.x) * 4;
        if (i >= p.tokens) return;
        const float4 sum = add_up((is_C ? p.dC : p.dB) + i, p.blocks, p.tokens);
        if (is_C) write<TC>(p.to_C, i, sum);
        else write<TB>(p.to_B, i, sum);
    } else if (block < p.start_D) {
        const i64 i = ((block - p.start_A) * 256 + threadIdx.x) * 4, size = p.states * p.channels;
        if (i >= size) return;
        const float4 sum = add_up(p.dA + i, p.rows, size);
        const i64 n = i / p.channels, d = i % p.channels;
        write_one<TA>(p.to_A, d * p.states + n, sum.x);
        write_one<TA>(p.to_A, (d + 1) * p.states + n, sum.y);
        write_one<TA>(p.to_A, (d + 2) * p.states + n, sum.z);
        write_one<TA>(p.to_A, (d + 3) * p.states + n, sum.w);
    } else {
        const bool is_bias = block >= p.start_bias;
        const i64 i = ((block - (is_bias ? p.start_bias : p.start_D)) * 256 + threadIdx.x) * 4;
        if (i >= p.channels) return;
        const float4 sum = add_up((is_bias ? p.dbias : p.dD) + i, p.rows, p.channels);
        if (is_bias) write<TBIAS>(p.to_bias, i, sum);
        else write<TD>(p.to_D, i, sum);
    }
}
