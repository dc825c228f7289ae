// One token through all layers of a Mamba-2 model. A block keeps a share of the channels of x and z with their states, and a share of
// B, C and dt. Between the parts of a layer the blocks exchange: the convolved B and C with dt, the gated y (for out_proj), and the
// layer's output.
constexpr int KINDS = 2, TABLE = 4;  // in_proj, out_proj; then convolution state, scan state
#include "decode_frame.cuh"

constexpr int BC = 2 * GROUPS * N, COMMON = BC + HEADS, HEADDIM = D_INNER / HEADS;
constexpr int OUT = 1;
constexpr int COMMON_BOX = NEXT_BOX, Y_BOX = COMMON_BOX + Letters<COMMON>::ALL;

__host__ __device__ constexpr int columns(int kind) { return kind == OUT ? D_INNER : D_MODEL; }
__host__ __device__ constexpr int sharers(int kind) { return kind == IN ? IN_SHARERS : kind == OUT ? OUT_SHARERS : HEAD_SHARERS; }
// in_proj has rows for z, x, B, C and dt, in this order. A block's rows are, in this order: its share of B, C and dt, its channels of x,
// its channels of z.
__device__ __forceinline__ int rows_here(int kind) {
    return kind == IN ? Share(COMMON, blockIdx.x).count + 2 * Share(D_INNER, blockIdx.x).count : Share(kind == OUT ? D_MODEL : VOCABULARY, blockIdx.x).count;
}
__device__ __forceinline__ int row_of(int kind, int i) {
    if (kind != IN) return i + Share(kind == OUT ? D_MODEL : VOCABULARY, blockIdx.x).first;
    const Share channels(D_INNER, blockIdx.x), common(COMMON, blockIdx.x);
    if (i < common.count) return 2 * D_INNER + common.first + i;
    i -= common.count;
    return channels.first + i + (i < channels.count ? D_INNER : -channels.count);
}
__device__ __forceinline__ int border(int i) {
    const Share channels(D_INNER, blockIdx.x), common(COMMON, blockIdx.x);
    return i < common.count ? common.count : i < common.count + channels.count ? common.count + channels.count : 1 << 20;
}

constexpr int PASSES = (CHANNELS + WARPS - 1) / WARPS;  // CHANNELS: of a block, at most
constexpr int HELD = N / 32;                            // states of a lane
constexpr int GROUP = D_INNER / GROUPS;                 // channels that share B, C and a norm

extern "C" __global__ void __launch_bounds__(NT, 1) decode_mamba2(const DecodeArguments p) {
    extern __shared__ __align__(16) float shared[];
    const Memory m(shared);
    float *mine_z = m.mine, *mine_x = mine_z + CHANNELS, *mine_y = mine_x + CHANNELS;
    const Share channels(D_INNER, blockIdx.x), common(COMMON, blockIdx.x);
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, lane_row = row_of_lane(), in_rows = rows_here(IN);
    // the channel of the convolution that row i of this block goes through: -1 for dt and z
    auto convolved = [&](int i) {
        if (i < 0) return -1;
        if (i < common.count) return common.first + i < BC ? D_INNER + common.first + i : -1;
        return i - common.count < channels.count ? channels.first + i - common.count : -1;
    };
    Stream stream;
    begin(p, m, stream);
#pragma unroll 1
    for (int layer = 0; layer <= LAYERS; layer++) {
        const unsigned tag = unsigned(p.tag) + layer;
        const float* constants = layer < LAYERS ? p.constants + i64(layer) * CONSTANTS : p.last_norm - NORM;
        char* conv_state = layer < LAYERS ? reinterpret_cast<char*>(m.table[layer * TABLE + 2]) : nullptr;
        Channel conv;
        float factor = 1.0f;
        // one loop over the products, so that their code is there once
#pragma unroll 1
        for (int kind = layer < LAYERS ? IN : HEAD; kind <= (layer < LAYERS ? OUT : HEAD); kind++) {
            if (kind == IN || kind == HEAD) {
                if (kind == IN && convolved(lane_row) >= 0) conv.load(conv_state, constants, convolved(lane_row));
                if (kind == IN)
                    prefetch_all(reinterpret_cast<const float*>(m.table[layer * TABLE + 3]) + i64(channels.first) * N, channels.count * N * 4);
                enter(p, m, constants + NORM, layer == 0, tag - 1);
            } else {
                if (layer + 1 < LAYERS)
                    prefetch_layer(constants + CONSTANTS, reinterpret_cast<const char*>(m.table[layer * TABLE + TABLE + 2]), channels.first, channels.count);
                prefetch_all(constants + GATED_NORM + channels.first, channels.count * 4);
                float* states = reinterpret_cast<float*>(m.table[layer * TABLE + 3]);
                float h[PASSES][HELD], bias[PASSES], A[PASSES], D[PASSES];
#pragma unroll
                for (int pass = 0; pass < PASSES; pass++) {
                    const int channel = channels.first + pass * WARPS + warp, head = channel / HEADDIM;
                    if (pass * WARPS + warp >= channels.count) continue;
                    load_floats(h[pass], states + i64(channel) * N + lane * HELD);
                    bias[pass] = constants[DT_BIAS + head], A[pass] = constants[A_LOG2 + head], D[pass] = constants[SKIP + head];
                }
                {
                    Letters<COMMON> rest;
                    rest.take(p.boxes + COMMON_BOX, tag);
                    rest.each([&](int k, float value, int) { m.all[k] = value; });
                }
                __syncthreads();
#pragma unroll
                for (int pass = 0; pass < PASSES; pass++) {
                    const int c = pass * WARPS + warp, channel = channels.first + c;
                    if (c >= channels.count) continue;
                    const float *B = m.all + channel / GROUP * N + lane * HELD, *C = B + GROUPS * N;
                    const float dt = fminf(fmaxf(softplus(m.all[BC + channel / HEADDIM] + bias[pass]), DT_LOW), DT_HIGH);
                    const float decay = exp2_fast(dt * A[pass]), x = mine_x[c];
                    float y = 0.0f;
#pragma unroll
                    for (int n = 0; n < HELD; n++) {
                        h[pass][n] = fmaf(decay, h[pass][n], dt * x * B[n]);
                        y = fmaf(h[pass][n], C[n], y);
                    }
                    store_floats(states + i64(channel) * N + lane * HELD, h[pass]);
                    y = lane_sum<32>(y);
                    if (lane == 0) mine_y[c] = fmaf(D[pass], x, y) * mine_z[c];
                }
                __syncthreads();
                for (int i = 3 * tid; i < channels.count; i += 3 * NT)
                    post(p.boxes + Y_BOX + blockIdx.x * Letters<D_INNER>::OF_A_BLOCK + i / 3, {{mine_y[i], mine_y[i + 1], mine_y[i + 2]}, tag});

                // the gated norm: its factor is multiplied into the product where there is but one group
                Letters<D_INNER> y;
                float weight[3 * Letters<D_INNER>::HELD], sum = 0.0f;
                constants_of<D_INNER>(weight, y, constants + GATED_NORM);
                y.take(p.boxes + Y_BOX, tag);
                y.each([&](int k, float value, int i) {
                    sum = fmaf(value, value, sum);
                    m.x[place(k)] = value * (GROUPS == 1 ? weight[i] : 1.0f);
                });
                sum = lane_sum<32>(sum);
                if (GROUPS == 1 && lane == 0) m.squares[warp] = sum;
                if (GROUPS > 1) {
                    __syncthreads();
                    for (int group = warp; group < GROUPS; group += WARPS) {
                        float square = 0.0f;
                        for (int k = lane; k < GROUP; k += 32)
                            square = fmaf(m.x[place(group * GROUP + k)], m.x[place(group * GROUP + k)], square);
                        square = lane_sum<32>(square);
                        if (lane == 0) m.squares[group] = inverse_root(square / GROUP + GATED_EPSILON);
                    }
                    __syncthreads();
                    y.each([&](int k, float value, int i) { m.x[place(k)] = value * weight[i] * m.squares[k / GROUP]; });
                }
            }
            __syncthreads();
            if (kind == OUT) factor = GROUPS == 1 ? root_mean_square(m.squares, D_INNER, GATED_EPSILON) : 1.0f;
            else factor = root_mean_square(m.squares, D_MODEL, EPSILON);
            multiply(kind, stream, m.x, m.partial);
            __syncthreads();
            if (kind == IN) {
#pragma unroll 1
                for (int round = 0; round < in_rows; round += ROUND) {
                    const int i = lane_row < 0 ? -1 : lane_row + round, c = i - common.count;
                    float sum = 0.0f;
                    if (i >= 0 && i < in_rows) {
                        sum = sum_of(m.partial, sharers(IN), i, m.parts[i]) * factor;
                        if (HAS_SCALE) sum *= constants[IN_SCALE + row_of(IN, i)];
                        if (HAS_BIAS) sum += constants[IN_BIAS + row_of(IN, i)];
                        const int channel = convolved(i);
                        if (channel >= 0) {
                            if (round) conv.load(conv_state, constants, channel);
                            sum = conv.convolve(conv_state, channel, sum);
                        }
                        if (c >= channels.count) mine_z[c - channels.count] = sum * sigmoid(sum);
                        else if (c >= 0) mine_x[c] = sum;
                    }
                    if (round < common.count)
                        post_rows(p.boxes + COMMON_BOX + blockIdx.x * Letters<COMMON>::OF_A_BLOCK, i, common.count, sum, tag);
                }
            } else if (kind == OUT) {
                leave(p, m, kind, constants, factor, tag);
            } else {
                finish(p, m, factor);
            }
        }
    }
}
