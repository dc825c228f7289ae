// Causal depthwise convolution where the steps of a channel lie side by side, forward. LT lanes walk along a row, ITEMS steps each, SEGMENTS
// times; all their loads are on the way before anything is computed. What a lane's taps reach before its own steps comes from the lane
// before, as it lies in memory.
#include "conv_taps.cuh"
constexpr int ITEMS = sizeof(TX) == 2 || REACH > 4 ? 8 : 4;
#include "items.cuh"

struct ConvRowsForwardArguments {
    const char *x, *weight, *bias;
    char* out;
    i64 x_b, x_d, out_b, out_d;  // bytes
    i64 weight_d, weight_w;      // elements
    i64 length, channels, rows, stretches;
};

constexpr int SEGMENT = LT * ITEMS;                           // steps
constexpr int WORDS = ITEMS * int(sizeof(TX)) / 4;            // of a lane's steps
constexpr int EARLIER = (REACH * int(sizeof(TX)) + 3) / 4;    // words of these that the next lane needs

extern "C" __global__ void __launch_bounds__(BLOCK) conv_rows_forward(const ConvRowsForwardArguments p) {
    const int lt = threadIdx.x % LT;
    const unsigned walker = blockIdx.x * (BLOCK / LT) + threadIdx.x / LT, stretches = p.stretches, channels = p.channels;
    const bool exists = walker / stretches < p.rows;
    const unsigned row = exists ? walker / stretches : 0, b = row / channels, d = row % channels;
    const i64 first = i64(walker % stretches) * (SEGMENTS * SEGMENT) + lt * ITEMS, left = exists ? p.length : 0;
    const char* x = p.x + b * p.x_b + d * p.x_d + first * i64(sizeof(TX));
    Items<TX, ALIGN> raw[SEGMENTS], before;
#pragma unroll
    for (int k = 0; k < SEGMENTS; k++) raw[k].load(x + k * SEGMENT * i64(sizeof(TX)), left - first - k * SEGMENT);
    clear(before.raw);
    if (REACH && lt == 0 && first > 0 && exists) before.load_whole(x - ITEMS * i64(sizeof(TX)));
    float weight[TAPS];
#pragma unroll
    for (int k = 0; k < TAPS; k++) weight[k] = Format<TW>::one(p.weight, d * p.weight_d + k * p.weight_w);
    const float bias = HAS_BIAS ? Format<TBIAS>::one(p.bias, d) : 0.0f;
    char* out = p.out + b * p.out_b + d * p.out_d + first * i64(sizeof(TX));
#pragma unroll
    for (int k = 0; k < SEGMENTS; k++) {
        Items<TX, ALIGN> earlier;
        clear(earlier.raw);
#pragma unroll
        for (int i = WORDS - EARLIER; i < WORDS; i++) {
            const float word = __uint_as_float(raw[k].raw.w[i]);
            earlier.raw.w[i] = __float_as_uint(from_before<LT>(word, 1));
            // before the first lane's steps lie those of the last lane, one segment before
            const unsigned wrapped = k ? __float_as_uint(from_after<LT>(__uint_as_float(raw[k ? k - 1 : 0].raw.w[i]), LT - 1)) : before.raw.w[i];
            if (lt == 0) earlier.raw.w[i] = wrapped;
        }
        float value[REACH + ITEMS], y[ITEMS];
#pragma unroll
        for (int i = 0; i < REACH; i++) value[i] = earlier.get(ITEMS - REACH + i);
#pragma unroll
        for (int i = 0; i < ITEMS; i++) value[REACH + i] = raw[k].get(i);
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            float sum = bias;
#pragma unroll
            for (int j = 0; j < TAPS; j++) sum = fmaf(weight[j], value[i + j], sum);
            y[i] = activated(sum);
        }
        write_items<TX, ALIGN_OUT>(out + k * SEGMENT * i64(sizeof(TX)), y, left - first - k * SEGMENT);
    }
}
