// Adds up what the blocks of a convolution's backward left for its weight and bias, in a fixed order.
#include "lanes.cuh"

struct ConvSumsArguments {
    const float *dweight, *dbias;  // (parts, channels * TAPS), (parts, channels)
    char *to_weight, *to_bias;
    i64 channels, parts, blocks;  // blocks: of the grid, for the weight
};

template <typename Type> __device__ __forceinline__ void add_up(const float* from, char* to, i64 count, i64 parts, i64 first) {
    // 32 values a block: eight lots of parts each, joined in shared memory
    __shared__ float lots[8][33];
    const int column = threadIdx.x % 32, lot = threadIdx.x / 32;
    const i64 i = first * 32 + column;
    float sum = 0.0f;
    if (i < count)
#pragma unroll 8
        for (i64 k = lot; k < parts; k += 8) sum += from[k * count + i];
    lots[lot][column] = sum;
    __syncthreads();
    if (lot || i >= count) return;
    for (int k = 1; k < 8; k++) sum += lots[k][column];
    Format<Type>::set(to, i, sum);
}

extern "C" __global__ void __launch_bounds__(256) conv_sums(const ConvSumsArguments p) {
    const i64 block = blockIdx.x;
    if (block < p.blocks) add_up<TW>(p.dweight, p.to_weight, p.channels * TAPS, p.parts, block);
    else add_up<TBIAS>(p.dbias, p.to_bias, p.channels, p.parts, block - p.blocks);
}
