// Causal depthwise convolution where the steps of a channel lie side by side, backward. A block has one channel: LT lanes walk along a part
// of a row of it from the end to the start, ITEMS steps each at a time, so that what the taps of later steps send back is there already.
// Sums for the weight stay in registers until a block has no more rows; then they are added up in a fixed order.
#include "conv_taps.cuh"
constexpr int ITEMS = sizeof(TX) == 2 || REACH > 4 ? 8 : 4;
#include "items.cuh"

struct ConvRowsBackwardArguments {
    const char *x, *dout, *weight, *bias;
    char *dx, *dweight, *dbias;  // the latter two of a single part, else float32: (parts, channels, TAPS) and (parts, channels)
    i64 x_b, x_d, dout_b, dout_d, dx_b, dx_d;  // bytes
    i64 weight_d, weight_w;                    // elements
    i64 length, channels, batch, segments, stretches, parts;  // segments: of a stretch
};

constexpr int SEGMENT = LT * ITEMS;
constexpr int WORDS = ITEMS * int(sizeof(TX)) / 4;
constexpr int EARLIER = (REACH * int(sizeof(TX)) + 3) / 4;
constexpr int SUMS = TAPS + 1;

extern "C" __global__ void __launch_bounds__(BLOCK, MIN_BLOCKS) conv_rows_backward(const ConvRowsBackwardArguments p) {
    __shared__ float sums_s[BLOCK / 32][SUMS];
    constexpr i64 SIZE = sizeof(TX);
    const int lt = threadIdx.x % LT;
    const unsigned parts = p.parts, stretches = p.stretches, d = blockIdx.x / parts, part = blockIdx.x % parts;
    const i64 units = p.batch * p.stretches;
    float weight[TAPS], sum[SUMS];
#pragma unroll
    for (int k = 0; k < TAPS; k++) weight[k] = Format<TW>::one(p.weight, d * p.weight_d + k * p.weight_w), sum[k] = 0.0f;
    sum[TAPS] = 0.0f;
    const float bias = HAS_BIAS ? Format<TBIAS>::one(p.bias, d) : 0.0f;
    // all lanes go as many times, for they exchange
    for (i64 at = i64(part) * (BLOCK / LT); at < units; at += i64(parts) * (BLOCK / LT)) {
        const i64 unit = at + threadIdx.x / LT;
        const bool exists = unit < units;
        const unsigned b = exists ? unsigned(unit) / stretches : 0, stretch = exists ? unsigned(unit) % stretches : 0;
        const i64 begin = stretch * p.segments * SEGMENT, length = exists ? p.length : 0;
        const i64 whole = begin + p.segments * SEGMENT, end = whole < length ? whole : length;
        const char* x = p.x + b * p.x_b + d * p.x_d;
        const char* dout = p.dout + b * p.dout_b + d * p.dout_d;
        char* dx = p.dx + b * p.dx_b + d * p.dx_d;
        // the gradients of the REACH steps after the stretch: one a lane, then all in the last
        float later[REACH + 1];
        {
            const i64 t = end + lt;
            float of_lane = 0.0f;
            if (lt < REACH && t < length) {
                float pre = bias;
#pragma unroll
                for (int k = 0; k < TAPS; k++)
                    if (t - REACH + k >= 0) pre = fmaf(weight[k], Format<TX>::one(x, t - REACH + k), pre);
                of_lane = Format<TX>::one(dout, t) * slope(pre);
            }
#pragma unroll
            for (int j = 0; j < REACH; j++) later[j] = from_before<LT>(of_lane, LT - 1 - j);
        }
        i64 t = begin + (p.segments - 1) * SEGMENT + lt * ITEMS;
        Items<TX, ALIGN> raw, gradient, next, next_gradient;
        raw.load(x + t * SIZE, length - t);
        gradient.load(dout + t * SIZE, length - t);
        for (i64 k = p.segments - 1; k >= 0; k--, t -= SEGMENT) {
            clear(next.raw), clear(next_gradient.raw);
            // of the steps before the stretch the taps reach the last lane's alone
            if (k > 0 || (REACH && begin > 0 && lt == LT - 1)) next.load(x + (t - SEGMENT) * SIZE, length - t + SEGMENT);
            if (k > 0) next_gradient.load(dout + (t - SEGMENT) * SIZE, length - t + SEGMENT);
            Items<TX, ALIGN> earlier;
            clear(earlier.raw);
#pragma unroll
            for (int i = WORDS - EARLIER; i < WORDS; i++) {
                const float of_lane = from_before<LT>(__uint_as_float(raw.raw.w[i]), 1);
                const float of_segment = from_after<LT>(__uint_as_float(next.raw.w[i]), LT - 1);
                earlier.raw.w[i] = __float_as_uint(lt == 0 ? of_segment : of_lane);
            }
            float value[REACH + ITEMS], back[ITEMS + REACH], made[ITEMS];
#pragma unroll
            for (int i = 0; i < REACH; i++) value[i] = earlier.get(ITEMS - REACH + i);
#pragma unroll
            for (int i = 0; i < ITEMS; i++) value[REACH + i] = raw.get(i);
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                float pre = bias;
#pragma unroll
                for (int j = 0; j < TAPS; j++) pre = fmaf(weight[j], value[i + j], pre);
                back[i] = t + i < length ? gradient.get(i) * slope(pre) : 0.0f;
                if (HAS_BIAS) sum[TAPS] += back[i];
#pragma unroll
                for (int j = 0; j < TAPS; j++) sum[j] = fmaf(back[i], value[i + j], sum[j]);
            }
#pragma unroll
            for (int j = 0; j < REACH; j++) {
                const float of_next = from_after<LT>(back[j], 1);
                back[ITEMS + j] = lt == LT - 1 ? later[j] : of_next;
                later[j] = from_before<LT>(back[j], LT - 1);
            }
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                made[i] = 0.0f;
#pragma unroll
                for (int j = 0; j < TAPS; j++) made[i] = fmaf(weight[j], back[i + REACH - j], made[i]);
            }
            write_items<TX, ALIGN_OUT>(dx + t * SIZE, made, length - t);
            raw = next, gradient = next_gradient;
        }
    }
#pragma unroll
    for (int k = 0; k < SUMS; k++) {
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) sum[k] += exchange(sum[k], mask);
        if (threadIdx.x % 32 == 0) sums_s[threadIdx.x / 32][k] = sum[k];
    }
    __syncthreads();
    const int k = threadIdx.x;
    if (k < TAPS + HAS_BIAS) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < BLOCK / 32; w++) total += sums_s[w][k];
        const i64 to = k < TAPS ? i64(d) * TAPS + k : d;
        if (parts > 1) reinterpret_cast<float*>(k < TAPS ? p.dweight : p.dbias)[part * p.channels * (k < TAPS ? TAPS : 1) + to] = total;
        else if (k < TAPS) Format<TW>::set(p.dweight, to, total);
        else Format<TBIAS>::set(p.dbias, to, total);
    }
}
