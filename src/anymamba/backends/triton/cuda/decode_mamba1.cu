// One token through all layers of a Mamba-1 model. A block keeps a share of the channels: their rows of in_proj (x and z), their
// convolution and their states. Between the parts of a layer the blocks exchange: the convolved x (for x_proj), the low-rank dt with
// B and C, the gated y (for out_proj), and the layer's output.
constexpr int KINDS = 3, TABLE = 6;  // in_proj, x_proj, out_proj; then dt_proj, convolution state, scan state
#include "decode_frame.cuh"

constexpr int LOW = RANK + 2 * N;
constexpr int X = 1, OUT = 2;
constexpr int X_BOX = NEXT_BOX, LOW_BOX = X_BOX + Letters<D_INNER>::ALL, Y_BOX = LOW_BOX + Letters<LOW>::ALL;

__host__ __device__ constexpr int columns(int kind) { return kind == X || kind == OUT ? D_INNER : D_MODEL; }
__host__ __device__ constexpr int sharers(int kind) {
    return kind == IN ? IN_SHARERS : kind == X ? X_SHARERS : kind == OUT ? OUT_SHARERS : HEAD_SHARERS;
}
__device__ __forceinline__ int rows_here(int kind) {
    return kind == IN ? 2 * Share(D_INNER, blockIdx.x).count : Share(kind == X ? LOW : kind == OUT ? D_MODEL : VOCABULARY, blockIdx.x).count;
}
__device__ __forceinline__ int row_of(int kind, int i) {
    if (kind != IN) return i + Share(kind == X ? LOW : kind == OUT ? D_MODEL : VOCABULARY, blockIdx.x).first;
    const Share channels(D_INNER, blockIdx.x);
    return channels.first + i + (i < channels.count ? 0 : D_INNER - channels.count);
}
__device__ __forceinline__ int border(int i) {
    const int count = Share(D_INNER, blockIdx.x).count;
    return i < count ? count : 1 << 20;
}

constexpr int PASSES = (CHANNELS * N + NT - 1) / NT;  // CHANNELS: of a block, at most
constexpr int RUN = (RANK + N - 1) / N;               // columns of dt_proj that a lane multiplies

// State n of channel c, one a thread: what is known before the token's own numbers are.
struct State {
    float h, A, D, bias, dt[RUN];

    __device__ __forceinline__ void load(const float* states, const char* dt_proj, const float* constants, int channel, int n) {
        h = states[i64(channel) * N + n];
        A = constants[A_LOG2 + channel * N + n];
        D = constants[SKIP + channel];
        bias = constants[DT_BIAS + channel];
#pragma unroll
        for (int i = 0; i < RUN; i++) dt[i] = n + i * N < RANK ? Format<TDT>::one(dt_proj, i64(channel) * RANK + n + i * N) : 0.0f;
    }
};

// FalconMamba: an RMS norm without weights of COUNT numbers, by every warp for itself. Returns the factor.
template <int COUNT> __device__ __forceinline__ float norm_factor(const float* x) {
    float sum = 0.0f;
    for (int i = threadIdx.x % 32; i < COUNT; i += 32) sum = fmaf(x[i], x[i], sum);
    return inverse_root(lane_sum<32>(sum) / COUNT + MIXER_EPSILON);
}

extern "C" __global__ void __launch_bounds__(NT, 1) decode_mamba1(const DecodeArguments p) {
    extern __shared__ __align__(16) float shared[];
    const Memory m(shared);
    float *mine_x = m.mine, *mine_z = m.mine + CHANNELS, *mine_y = mine_z + CHANNELS;
    const Share channels(D_INNER, blockIdx.x), lows(LOW, blockIdx.x);
    const int tid = threadIdx.x, lane_row = row_of_lane(), mine = blockIdx.x * Letters<D_INNER>::OF_A_BLOCK;
    Stream stream;
    begin(p, m, stream);
#pragma unroll 1
    for (int layer = 0; layer <= LAYERS; layer++) {
        const unsigned tag = unsigned(p.tag) + layer;
        const float* constants = layer < LAYERS ? p.constants + i64(layer) * CONSTANTS : p.last_norm - NORM;
        const u64* entry = m.table + layer * TABLE;
        char* conv_state = layer < LAYERS ? reinterpret_cast<char*>(entry[4]) : nullptr;
        Channel conv;
        float factor = 1.0f;
        // one loop over the products, so that their code is there once
#pragma unroll 1
        for (int kind = layer < LAYERS ? IN : HEAD; kind <= (layer < LAYERS ? OUT : HEAD); kind++) {
            if (kind == IN || kind == HEAD) {
                if (kind == IN && lane_row >= 0 && lane_row < channels.count) conv.load(conv_state, constants, channels.first + lane_row);
                enter(p, m, constants + NORM, layer == 0, tag - 1);
            } else if (kind == X) {
                prefetch_all(reinterpret_cast<const float*>(entry[5]) + channels.first * N, channels.count * N * 4);
                prefetch_all(constants + A_LOG2 + channels.first * N, channels.count * N * 4);
                prefetch_all(reinterpret_cast<const char*>(entry[3]) + channels.first * RANK * sizeof(TDT), channels.count * RANK * int(sizeof(TDT)));
                prefetch_all(constants + SKIP + channels.first, channels.count * 4);
                prefetch_all(constants + DT_BIAS + channels.first, channels.count * 4);
                if (lows.count) {
                    Letters<D_INNER> x;
                    x.take(p.boxes + X_BOX, tag);
                    x.each([&](int k, float value, int) { m.x[place(k)] = value; });
                }
            } else {
                if (layer + 1 < LAYERS)
                    prefetch_layer(constants + CONSTANTS, reinterpret_cast<const char*>(entry[TABLE + 4]), channels.first, channels.count);
                float* states = reinterpret_cast<float*>(entry[5]);
                State state[PASSES];
#pragma unroll
                for (int pass = 0; pass < PASSES; pass++) {
                    const int c = (pass * NT + tid) / N;
                    if (c < channels.count)
                        state[pass].load(states, reinterpret_cast<const char*>(entry[3]), constants, channels.first + c, tid % N);
                }
                {
                    Letters<LOW> low;
                    low.take(p.boxes + LOW_BOX, tag);
                    low.each([&](int k, float value, int) { m.all[k] = value; });
                }
                __syncthreads();
                float of_dt = 1.0f, of_B = 1.0f, of_C = 1.0f;
                if (MIXER_NORM)
                    of_dt = norm_factor<RANK>(m.all), of_B = norm_factor<N>(m.all + RANK), of_C = norm_factor<N>(m.all + RANK + N);
#pragma unroll
                for (int pass = 0; pass < PASSES; pass++) {
                    const int c = (pass * NT + tid) / N, n = tid % N;
                    const bool live = c < channels.count;
                    State& s = state[pass];
                    float sum = 0.0f;
#pragma unroll
                    for (int i = 0; i < RUN; i++)
                        if (live && n + i * N < RANK) sum = fmaf(s.dt[i], m.all[n + i * N], sum);
                    sum = lane_sum<N>(sum);
                    float y = 0.0f, x = 0.0f;
                    if (live) {
                        const float dt = softplus(fmaf(sum, of_dt, s.bias));
                        x = mine_x[c];
                        s.h = fmaf(exp2_fast(dt * s.A), s.h, dt * x * (m.all[RANK + n] * of_B));
                        states[i64(channels.first + c) * N + n] = s.h;
                        y = s.h * (m.all[RANK + N + n] * of_C);
                    }
                    y = lane_sum<N>(y);
                    if (live && n == 0) mine_y[c] = fmaf(s.D, x, y) * mine_z[c];
                }
                __syncthreads();
                for (int i = 3 * tid; i < channels.count; i += 3 * NT)
                    post(p.boxes + Y_BOX + mine + i / 3, {{mine_y[i], mine_y[i + 1], mine_y[i + 2]}, tag});
                Letters<D_INNER> y;
                y.take(p.boxes + Y_BOX, tag);
                y.each([&](int k, float value, int) { m.x[place(k)] = value; });
            }
            __syncthreads();
            if (kind == IN || kind == HEAD) factor = root_mean_square(m.squares, D_MODEL, EPSILON);
            multiply(kind, stream, m.x, m.partial);
            __syncthreads();
            if (kind == IN) {
                // the first rows are x and go through the convolution, the others are z
#pragma unroll 1
                for (int round = 0; round < 2 * channels.count; round += ROUND) {
                    const int i = lane_row < 0 ? -1 : lane_row + round;
                    float sum = 0.0f;
                    if (i >= 0 && i < 2 * channels.count) {
                        sum = sum_of(m.partial, sharers(IN), i, m.parts[i]) * factor;
                        if (HAS_SCALE) sum *= constants[IN_SCALE + row_of(IN, i)];
                        if (HAS_BIAS) sum += constants[IN_BIAS + row_of(IN, i)];
                        if (i < channels.count) {
                            if (round) conv.load(conv_state, constants, channels.first + i);
                            mine_x[i] = sum = conv.convolve(conv_state, channels.first + i, sum);
                        } else {
                            mine_z[i - channels.count] = sum * sigmoid(sum);
                        }
                    }
                    if (round < channels.count) post_rows(p.boxes + X_BOX + mine, i, channels.count, sum, tag);
                }
            } else if (kind == X) {
#pragma unroll 1
                for (int round = 0; round < lows.count; round += ROUND) {
                    const int i = lane_row < 0 ? -1 : lane_row + round;
                    float sum = 0.0f;
                    if (i >= 0 && i < lows.count) {
                        sum = sum_of(m.partial, sharers(X), i, m.parts[ROWS + i]);
                        if (HAS_SCALE) sum *= constants[X_SCALE + lows.first + i];
                    }
                    post_rows(p.boxes + LOW_BOX + blockIdx.x * Letters<LOW>::OF_A_BLOCK, i, lows.count, sum, tag);
                }
            } else if (kind == OUT) {
                leave(p, m, kind, constants, 1.0f, tag);
            } else {
                finish(p, m, factor);
            }
        }
    }
}
