// Causal depthwise convolution where channels lie side by side, forward. A lane has V neighbouring channels and walks along a stretch of the
// steps, with STEPS loads on the way at a time; the inputs that its taps reach stay in registers.
#include "conv_taps.cuh"
#include "few.cuh"

struct ConvChannelsForwardArguments {
    const char *x, *weight, *bias;
    char* out;
    i64 x_b, x_l, out_b, out_l;  // bytes
    i64 weight_d, weight_w;      // elements
    i64 length, channels, stretch, across, along;  // steps of a stretch; blocks across the channels, and stretches along a row
};

extern "C" __global__ void __launch_bounds__(BLOCK, MIN_BLOCKS) conv_channels_forward(const ConvChannelsForwardArguments p) {
    const unsigned across = p.across, along = p.along, block = blockIdx.x / across, b = block / along;
    const i64 d = (i64(blockIdx.x % across) * BLOCK + threadIdx.x) * V;
    if (d >= p.channels) return;
    const i64 begin = block % along * p.stretch, whole = begin + p.stretch, end = whole < p.length ? whole : p.length;
    const char* x = p.x + b * p.x_b + d * i64(sizeof(TX));
    char* out = p.out + b * p.out_b + d * i64(sizeof(TX));
    float weight[TAPS][V], bias[V], value[REACH + STEPS][V];
#pragma unroll
    for (int v = 0; v < V; v++) {
        bias[v] = HAS_BIAS ? Format<TBIAS>::one(p.bias, d + v) : 0.0f;
#pragma unroll
        for (int k = 0; k < TAPS; k++) weight[k][v] = Format<TW>::one(p.weight, (d + v) * p.weight_d + k * p.weight_w);
    }
#pragma unroll
    for (int k = 0; k < REACH; k++) {
        const i64 t = begin - REACH + k;
        Few<TX, V> raw;
        raw.load(x + t * p.x_l, t >= 0);
#pragma unroll
        for (int v = 0; v < V; v++) value[k][v] = raw.get(v);
    }
#pragma unroll 1
    for (i64 t = begin; t < end; t += STEPS) {
        Few<TX, V> raw[STEPS];
#pragma unroll
        for (int i = 0; i < STEPS; i++) raw[i].load(x + (t + i) * p.x_l, t + i < end);
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            float y[V];
#pragma unroll
            for (int v = 0; v < V; v++) {
                value[REACH + i][v] = raw[i].get(v);
                y[v] = bias[v];
#pragma unroll
                for (int k = 0; k < TAPS; k++) y[v] = fmaf(weight[k][v], value[i + k][v], y[v]);
                y[v] = activated(y[v]);
            }
            if (t + i < end) Few<TX, V>::store(out + (t + i) * p.out_l, y);
        }
#pragma unroll
        for (int k = 0; k < REACH; k++)
#pragma unroll
            for (int v = 0; v < V; v++) value[k][v] = value[STEPS + k][v];
    }
}
