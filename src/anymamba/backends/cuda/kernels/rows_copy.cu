// Copies (batch, channels, length) of any strides into rows of `pitch` steps that lie side by side, with zeros past the length: through
// tiles of 64 channels and 64 steps in shared memory, so that memory is read along its channels and written along its steps.
#include "lanes.cuh"

struct RowsCopyArguments {
    const TYPE* from;
    TYPE* to;
    i64 from_b, from_d, from_l, channels, length, pitch, across, along;  // elements; tiles across the channels and along the length
};

extern "C" __global__ void __launch_bounds__(256) rows_copy(const RowsCopyArguments p) {
    __shared__ TYPE tile[64][65 + (sizeof(TYPE) == 2)];
    const i64 block = blockIdx.x, b = block / (p.across * p.along);
    const i64 d0 = block % p.across * 64, t0 = block / p.across % p.along * 64;
    const int column = threadIdx.x % 64, row = threadIdx.x / 64;
#pragma unroll
    for (int k = 0; k < 64; k += 4) {
        const i64 d = d0 + column, t = t0 + row + k;
        tile[row + k][column] = d < p.channels && t < p.length ? p.from[b * p.from_b + d * p.from_d + t * p.from_l] : TYPE(0);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 64; k += 4) {
        const i64 d = d0 + row + k, t = t0 + column;
        if (d < p.channels && t < p.pitch) p.to[(b * p.channels + d) * p.pitch + t] = tile[column][row + k];
    }
}
