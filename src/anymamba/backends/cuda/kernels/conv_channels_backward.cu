// Causal depthwise convolution where channels lie side by side, backward. A lane has V neighbouring channels and walks along a stretch of the
// steps from the end to the start, STEPS at a time. First come the REACH steps after the stretch, whose gradients its taps send back.
// Sums for the weight stay in registers; each block of warps leaves one lot of them, which conv_sums adds up.
#include "conv_taps.cuh"
#include "few.cuh"

struct ConvChannelsBackwardArguments {
    const char *x, *dout, *weight, *bias;
    char* dx;
    float *dweight, *dbias;                    // (parts, channels, TAPS), (parts, channels)
    i64 x_b, x_l, dout_b, dout_l, dx_b, dx_l;  // bytes
    i64 weight_d, weight_w;                    // elements
    i64 length, channels, stretch, across, along;
};

constexpr int SUMS = TAPS + HAS_BIAS;

extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS) conv_channels_backward(const ConvChannelsBackwardArguments p) {
    __shared__ float sums_s[WARPS > 1 ? WARPS - 1 : 1][SUMS][V][32];
    // the warps of a block share its channels, and have stretches that follow each other
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned across = p.across, along = p.along, block = blockIdx.x / across, b = block / along;
    const i64 d = (i64(blockIdx.x % across) * 32 + lane) * V;
    const bool exists = d < p.channels;
    const i64 begin = (i64(block % along) * WARPS + warp) * p.stretch, whole = begin + p.stretch, end = whole < p.length ? whole : p.length;
    const char* x = p.x + b * p.x_b + d * i64(sizeof(TX));
    const char* dout = p.dout + b * p.dout_b + d * i64(sizeof(TX));
    char* dx = p.dx + b * p.dx_b + d * i64(sizeof(TX));
    float weight[TAPS][V], bias[V], sum[SUMS][V];
    float value[STEPS + REACH][V];  // of the steps from t - REACH on
    float back[STEPS + REACH][V];   // of the steps from t on
#pragma unroll
    for (int v = 0; v < V; v++) {
        bias[v] = HAS_BIAS && exists ? Format<TBIAS>::one(p.bias, d + v) : 0.0f;
#pragma unroll
        for (int k = 0; k < TAPS; k++) weight[k][v] = exists ? Format<TW>::one(p.weight, (d + v) * p.weight_d + k * p.weight_w) : 0.0f;
#pragma unroll
        for (int k = 0; k < SUMS; k++) sum[k][v] = 0.0f;
#pragma unroll
        for (int k = 0; k < STEPS + REACH; k++) value[k][v] = back[k][v] = 0.0f;
    }
    // from the last tile, which begins within the stretch, or after it where there are taps that reach back into it
    const i64 tiles = begin < end ? (end - begin + REACH + STEPS - 1) / STEPS : 0, from = begin + tiles * STEPS;
#pragma unroll
    for (int k = 0; k < REACH; k++) {
        const i64 t = from - REACH + k;
        Few<TX, V> raw;
        raw.load(x + t * p.x_l, exists && tiles && t >= 0 && t < p.length);
#pragma unroll
        for (int v = 0; v < V; v++) value[k][v] = raw.get(v);
    }
#pragma unroll 1
    for (i64 t = from - STEPS; t >= begin; t -= STEPS) {
        Few<TX, V> raw[STEPS], gradient[STEPS];
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            raw[i].load(x + (t - REACH + i) * p.x_l, exists && t - REACH + i >= 0 && t - REACH + i < p.length);
            gradient[i].load(dout + (t + i) * p.dout_l, exists && t + i < p.length);
        }
#pragma unroll
        for (int v = 0; v < V; v++) {
#pragma unroll
            for (int k = REACH - 1; k >= 0; k--) value[STEPS + k][v] = value[k][v], back[STEPS + k][v] = back[k][v];
#pragma unroll
            for (int i = 0; i < STEPS; i++) value[i][v] = raw[i].get(v);
        }
#pragma unroll
        for (int i = STEPS - 1; i >= 0; i--) {
            float made[V];
            const bool own = t + i < end;
#pragma unroll
            for (int v = 0; v < V; v++) {
                float pre = bias[v];
#pragma unroll
                for (int k = 0; k < TAPS; k++) pre = fmaf(weight[k][v], value[i + k][v], pre);
                back[i][v] = t + i < p.length ? gradient[i].get(v) * slope(pre) : 0.0f;
                const float added = own ? back[i][v] : 0.0f;
#pragma unroll
                for (int k = 0; k < TAPS; k++) sum[k][v] = own ? fmaf(added, value[i + k][v], sum[k][v]) : sum[k][v];
                if (HAS_BIAS) sum[SUMS - 1][v] += added;
                made[v] = 0.0f;
#pragma unroll
                for (int k = 0; k < TAPS; k++) made[v] = fmaf(weight[k][v], back[i + REACH - k][v], made[v]);
            }
            if (own && exists) Few<TX, V>::store(dx + (t + i) * p.dx_l, made);
        }
    }
    if (WARPS > 1) {
        if (warp)
#pragma unroll
            for (int k = 0; k < SUMS; k++)
#pragma unroll
                for (int v = 0; v < V; v++) sums_s[warp - 1][k][v][lane] = sum[k][v];
        __syncthreads();
        if (warp) return;
        for (int w = 0; w < WARPS - 1; w++)
#pragma unroll
            for (int k = 0; k < SUMS; k++)
#pragma unroll
                for (int v = 0; v < V; v++) sum[k][v] += sums_s[w][k][v][lane];
    }
    if (!exists) return;
    const i64 part = block;
#pragma unroll
    for (int v = 0; v < V; v++) {
#pragma unroll
        for (int k = 0; k < TAPS; k++) p.dweight[(part * p.channels + d + v) * TAPS + k] = sum[k][v];
        if (HAS_BIAS) p.dbias[part * p.channels + d + v] = sum[SUMS - 1][v];
    }
}
