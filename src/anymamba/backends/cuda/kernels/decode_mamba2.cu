// One token through all layers of a Mamba-2 model. A block keeps a share of the channels of x and z with their states, and a share of
// B, C and dt. Between the parts of a layer the blocks exchange: the convolved B and C with dt, the gated y (for out_proj), and the
// layer's output.
constexpr int KINDS = 3, TABLE = 5;  // in_proj (B, C, dt), in_proj (x, z), out_proj; then convolution state, scan state
#include "decode_frame.cuh"

constexpr int BC = 2 * GROUPS * N, COMMON = BC + HEADS, HEADDIM = D_INNER / HEADS;
constexpr int COMMON_BOX = NEXT_BOX, Y_BOX = COMMON_BOX + Letters<COMMON>::ALL;

__host__ __device__ constexpr int columns(int kind) { return kind == OUT ? D_INNER : D_MODEL; }
__host__ __device__ constexpr int sharers(int kind) {
    return kind == FIRST ? FIRST_SHARERS : kind == SECOND ? SECOND_SHARERS : kind == OUT ? OUT_SHARERS : HEAD_SHARERS;
}
// in_proj has rows for z, x, B, C and dt, in this order. The second product is with a block's channels of x, then of z.
__device__ __forceinline__ Share rows_of(int kind) {
    return Share(kind == FIRST ? COMMON : kind == SECOND ? D_INNER : kind == OUT ? D_MODEL : VOCABULARY, blockIdx.x);
}
__device__ __forceinline__ int rows_here(int kind) { return rows_of(kind).count * (kind == SECOND ? 2 : 1); }
__device__ __forceinline__ int row_of(int kind, int i) {
    const Share rows = rows_of(kind);
    if (kind == FIRST) return 2 * D_INNER + rows.first + i;
    return rows.first + i + (kind != SECOND ? 0 : i < rows.count ? D_INNER : -rows.count);
}
__device__ __forceinline__ int border(int kind, int i) {
    const int count = rows_of(SECOND).count;
    return kind == SECOND && i < count ? count : 1 << 20;
}

constexpr int PASSES = (CHANNELS + WARPS - 1) / WARPS;  // CHANNELS: of a block, at most
constexpr int HELD = N / 32;                            // states of a lane
constexpr int GROUP = D_INNER / GROUPS;                 // channels that share B, C and a norm

extern "C" __global__ void __launch_bounds__(NT, 1) decode_mamba2(const DecodeArguments p) {
    extern __shared__ __align__(16) float shared[];
    const Memory m(shared);
    float *mine_z = m.mine, *mine_x = mine_z + CHANNELS, *mine_y = mine_x + CHANNELS;
    const Share channels(D_INNER, blockIdx.x), common(COMMON, blockIdx.x);
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, lane_row = row_of_lane();
    // the channel of the convolution that the block's row i of B, C and dt goes through: -1 for dt
    auto convolved = [&](int i) { return i >= 0 && i < common.count && common.first + i < BC ? D_INNER + common.first + i : -1; };
    Stream stream;
    begin(p, m, stream);
#pragma unroll 1
    for (int layer = 0; layer <= LAYERS; layer++) {
        const unsigned tag = unsigned(p.tag) + layer;
        const float* constants = layer < LAYERS ? p.constants + i64(layer) * CONSTANTS : p.last_norm - NORM;
        char* conv_state = layer < LAYERS ? reinterpret_cast<char*>(m.table[layer * TABLE + 3]) : nullptr;
        Channel conv;
        float factor = 1.0f;
        // one loop over the products, so that their code is there once
#pragma unroll 1
        for (int kind = layer < LAYERS ? FIRST : HEAD; kind <= (layer < LAYERS ? OUT : HEAD); kind++) {
            if (kind == FIRST || kind == HEAD) {
                if (kind == FIRST) {
                    if (convolved(lane_row) >= 0) conv.load(conv_state, constants, convolved(lane_row));
                    prefetch_all(reinterpret_cast<const float*>(m.table[layer * TABLE + 4]) + i64(channels.first) * N, channels.count * N * 4);
                    prefetch_all(constants + GATED_NORM + channels.first, channels.count * 4);
                    const int head = channels.first / HEADDIM, heads = (channels.first + channels.count - 1) / HEADDIM - head + 1;
                    prefetch_all(constants + DT_BIAS + head, heads * 4);
                    prefetch_all(constants + A_LOG2 + head, heads * 4);
                    prefetch_all(constants + SKIP + head, heads * 4);
                }
                enter(p, m, stream, constants + NORM, layer == 0, tag - 1);
                __syncthreads();
                factor = root_mean_square(m.squares, D_MODEL, EPSILON);
            } else if (kind == SECOND) {
                if (lane_row >= 0 && lane_row < channels.count) conv.load(conv_state, constants, channels.first + lane_row);
            } else {
                if (layer + 1 < LAYERS)
                    prefetch_layer(constants + CONSTANTS, reinterpret_cast<const char*>(m.table[layer * TABLE + TABLE + 3]), channels.first, channels.count);
                float* states = reinterpret_cast<float*>(m.table[layer * TABLE + 4]);
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
                stream.look_ahead();
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
                __syncthreads();
                factor = GROUPS == 1 ? root_mean_square(m.squares, D_INNER, GATED_EPSILON) : 1.0f;
            }
            multiply(kind, stream, m.x, kind == FIRST ? m.early : m.partial);
            __syncthreads();
            if (kind == FIRST) {
#pragma unroll 1
                for (int round = 0; round < common.count; round += ROUND) {
                    const int i = lane_row < 0 ? -1 : lane_row + round;
                    float sum = 0.0f;
                    if (i >= 0 && i < common.count) {
                        sum = in_row(m, constants, kind, m.early, i, factor);
                        if (convolved(i) >= 0) {
                            if (round) conv.load(conv_state, constants, convolved(i));
                            sum = conv.convolve(conv_state, convolved(i), sum);
                        }
                    }
                    post_rows(p.boxes + COMMON_BOX + blockIdx.x * Letters<COMMON>::OF_A_BLOCK, i, common.count, sum, tag);
                }
            } else if (kind == SECOND) {
#pragma unroll 1
                for (int round = 0; round < 2 * channels.count; round += ROUND) {
                    const int i = lane_row < 0 ? 2 * channels.count : lane_row + round;
                    if (i >= 2 * channels.count) continue;
                    const float sum = in_row(m, constants, kind, m.partial, i, factor);
                    if (i < channels.count) {
                        if (round) conv.load(conv_state, constants, channels.first + i);
                        mine_x[i] = conv.convolve(conv_state, channels.first + i, sum);
                    } else {
                        mine_z[i - channels.count] = sum * sigmoid(sum);
                    }
                }
            } else if (kind == OUT) {
                leave(p, m, kind, constants, factor, tag);
            } else {
                finish(p, m, factor);
            }
        }
    }
}
