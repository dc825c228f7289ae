// Adds up what the blocks of rows_backward left, in a fixed order: `count` values, `parts` times one after another, of each of five
// gradients. The grid is cut into the five by first_block.
#include "lanes.cuh"

struct RowsSumsArguments {
    const float *dB, *dC, *dA, *dD, *dbias;
    char *to_B, *to_C, *to_A, *to_D, *to_bias;
    i64 count_B, count_C, count_A, count_D, count_bias, parts_B, parts_C, parts;
    i64 start_C, start_A, start_D, start_bias;  // first block of the grid for each
};

template <typename Type> __device__ __forceinline__ void add_up(const float* from, char* to, i64 block, i64 count, i64 parts) {
    const i64 i = block * 256 + threadIdx.x;
    if (i >= count) return;
    float sum = 0.0f;
#pragma unroll 8
    for (i64 k = 0; k < parts; k++) sum += from[k * count + i];
    Format<Type>::set(to, i, sum);
}

extern "C" __global__ void __launch_bounds__(256) rows_sums(const RowsSumsArguments p) {
    const i64 block = blockIdx.x;
    if (block < p.start_C) add_up<TB>(p.dB, p.to_B, block, p.count_B, p.parts_B);
    else if (block < p.start_A) add_up<TC>(p.dC, p.to_C, block - p.start_C, p.count_C, p.parts_C);
    else if (block < p.start_D) add_up<TA>(p.dA, p.to_A, block - p.start_A, p.count_A, p.parts);
    else if (block < p.start_bias) add_up<TD>(p.dD, p.to_D, block - p.start_D, p.count_D, p.parts);
    else add_up<TBIAS>(p.dbias, p.to_bias, block - p.start_bias, p.count_bias, p.parts);
}
