// One token through all layers of a Mamba-1 model. A block keeps a share of the channels: their rows of in_proj (x, then z), their
// convolution, their columns of x_proj and their states. Between the parts of a layer the blocks exchange: the low-rank dt with B and C,
// to which each adds what its channels give, the gated y (for out_proj), and the layer's output.
constexpr int KINDS = 3, TABLE = 7;  // in_proj (x), in_proj (z), out_proj; then x_proj, dt_proj, convolution state, scan state
#include "decode_frame.cuh"

constexpr int LOW = RANK + 2 * N;
constexpr int Y_BOX = NEXT_BOX;

__host__ __device__ constexpr int columns(int kind) { return kind == OUT ? D_INNER : D_MODEL; }
__host__ __device__ constexpr int sharers(int kind) {
    return kind == FIRST ? FIRST_SHARERS : kind == SECOND ? SECOND_SHARERS : kind == OUT ? OUT_SHARERS : HEAD_SHARERS;
}
__device__ __forceinline__ Share rows_of(int kind) {
    return Share(kind == FIRST || kind == SECOND ? D_INNER : kind == OUT ? D_MODEL : VOCABULARY, blockIdx.x);
}
__device__ __forceinline__ int rows_here(int kind) { return rows_of(kind).count; }
__device__ __forceinline__ int row_of(int kind, int i) { return rows_of(kind).first + i + (kind == SECOND ? D_INNER : 0); }
__device__ __forceinline__ int border(int, int) { return 1 << 20; }

constexpr int PASSES = (CHANNELS * N + NT - 1) / NT;  // CHANNELS: of a block, at most
constexpr int RUN = (RANK + N - 1) / N;               // columns of dt_proj that a lane multiplies

// State n of channel c, one a thread: what is known before the token's own numbers are; of dt_proj, if registers allow.
struct State {
    static constexpr bool AHEAD = PASSES * RUN <= 20;
    float h, A, D, bias, dt[AHEAD ? RUN : 1];

    static __device__ __forceinline__ float of_dt_proj(const char* dt_proj, int channel, int k) {
        return k < RANK ? Format<TDT>::one(dt_proj, i64(channel) * RANK + k) : 0.0f;
    }
    __device__ __forceinline__ void load(const float* states, const char* dt_proj, const float* constants, int channel, int n) {
        h = states[i64(channel) * N + n];
        A = constants[A_LOG2 + channel * N + n];
        D = constants[SKIP + channel];
        bias = constants[DT_BIAS + channel];
#pragma unroll
        for (int i = 0; AHEAD && i < RUN; i++) dt[i] = of_dt_proj(dt_proj, channel, n + i * N);
    }
};

// This block's columns of x_proj: four lanes share a row. They are loaded while the convolution is computed, if registers allow.
struct Columns {
    static constexpr int ROUNDS = (LOW * 4 + NT - 1) / NT, EACH = (CHANNELS + 3) / 4;
    static constexpr bool AHEAD = ROUNDS * EACH <= 16;
    static constexpr int AT_ONCE = ROUNDS * EACH <= 32 ? ROUNDS : 1;
    float weight[AHEAD ? ROUNDS : 1][EACH];
    const char* matrix;

    __device__ __forceinline__ void load_round(float (&to)[EACH], int round, const Share& channels) const {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int row = (round * NT + threadIdx.x) / 4, c = threadIdx.x % 4 + 4 * i;
            const bool live = row < LOW && c < channels.count;
            to[i] = live ? Format<TW>::one(matrix, i64(row) * D_INNER + channels.first + c) : 0.0f;
        }
    }
    __device__ __forceinline__ void load(const char* from, const Share& channels) {
        matrix = from;
#pragma unroll
        for (int round = 0; AHEAD && round < ROUNDS; round++) load_round(weight[round], round, channels);
    }
    __device__ __forceinline__ void add_product(u64* totals, const float* x, const Share& channels, const float* constants) {
#pragma unroll AT_ONCE
        for (int round = 0; round < ROUNDS; round++) {
            if (!AHEAD) load_round(weight[0], round, channels);
            const int row = (round * NT + threadIdx.x) / 4;
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int c = threadIdx.x % 4 + 4 * i;
                if (c < channels.count) sum = fmaf(weight[AHEAD ? round : 0][i], x[c], sum);
            }
            sum = lane_sum<4>(sum);
            if (row >= LOW || threadIdx.x % 4) continue;
            if (HAS_SCALE) sum *= constants[X_SCALE + row];
            add_part(totals + row * TOTALS_APART, sum);
        }
    }
};

// What this block will read of x_proj, a piece of every row.
__device__ __forceinline__ void prefetch_columns(const char* matrix, const Share& channels) {
    for (int row = threadIdx.x; row < LOW; row += NT) {
        const char* from = matrix + (i64(row) * D_INNER + channels.first) * int(sizeof(TW));
#pragma unroll 1
        for (int at = 0; at < channels.count * int(sizeof(TW)); at += 128) prefetch(from + at);
        prefetch(from + channels.count * int(sizeof(TW)) - 1);
    }
}

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
    u64* seen = reinterpret_cast<u64*>(m.all + (LOW + 3) / 4 * 4);
    const Share channels(D_INNER, blockIdx.x);
    const int tid = threadIdx.x, lane_row = row_of_lane(), mine = blockIdx.x * Letters<D_INNER>::OF_A_BLOCK;
    Stream stream;
    for (int i = tid; i < LOW; i += NT) seen[i] = p.seen[i];
    begin(p, m, stream);
#pragma unroll 1
    for (int layer = 0; layer <= LAYERS; layer++) {
        const unsigned tag = unsigned(p.tag) + layer;
        const float* constants = layer < LAYERS ? p.constants + i64(layer) * CONSTANTS : p.last_norm - NORM;
        const u64* entry = m.table + layer * TABLE;
        char* conv_state = layer < LAYERS ? reinterpret_cast<char*>(entry[5]) : nullptr;
        Channel conv;
        float factor = 1.0f;
        // one loop over the products, so that their code is there once
#pragma unroll 1
        for (int kind = layer < LAYERS ? FIRST : HEAD; kind <= (layer < LAYERS ? OUT : HEAD); kind++) {
            if (kind == FIRST || kind == HEAD) {
                if (kind == FIRST) {
                    if (lane_row >= 0 && lane_row < channels.count) conv.load(conv_state, constants, channels.first + lane_row);
                    prefetch_all(reinterpret_cast<const float*>(entry[6]) + channels.first * N, channels.count * N * 4);
                    prefetch_all(constants + A_LOG2 + channels.first * N, channels.count * N * 4);
                    prefetch_all(reinterpret_cast<const char*>(entry[4]) + channels.first * RANK * sizeof(TDT), channels.count * RANK * int(sizeof(TDT)));
                    prefetch_all(constants + SKIP + channels.first, channels.count * 4);
                    prefetch_all(constants + DT_BIAS + channels.first, channels.count * 4);
                    if (layer == 0) prefetch_columns(reinterpret_cast<const char*>(entry[3]), channels);
                }
                enter(p, m, stream, constants + NORM, layer == 0, tag - 1);
                __syncthreads();
                factor = root_mean_square(m.squares, D_MODEL, EPSILON);
            } else if (kind == OUT) {
                if (layer + 1 < LAYERS) {
                    prefetch_layer(constants + CONSTANTS, reinterpret_cast<const char*>(entry[TABLE + 5]), channels.first, channels.count);
                    prefetch_columns(reinterpret_cast<const char*>(entry[TABLE + 3]), channels);
                }
                float* states = reinterpret_cast<float*>(entry[6]);
                State state[PASSES];
#pragma unroll
                for (int pass = 0; pass < PASSES; pass++) {
                    const int c = (pass * NT + tid) / N;
                    if (c < channels.count)
                        state[pass].load(states, reinterpret_cast<const char*>(entry[4]), constants, channels.first + c, tid % N);
                }
                take_sums<LOW, TOTALS_APART>(p.totals, seen, [&](int k, float value) { m.all[k] = value; });
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
                        if (live && n + i * N < RANK)
                            sum = fmaf(State::AHEAD ? s.dt[i] : State::of_dt_proj(reinterpret_cast<const char*>(entry[4]), channels.first + c, n + i * N), m.all[n + i * N], sum);
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
                stream.look_ahead();
                y.take(p.boxes + Y_BOX, tag);
                y.each([&](int k, float value, int) { m.x[place(k)] = value; });
                __syncthreads();
            }
            multiply(kind, stream, m.x, kind == FIRST ? m.early : m.partial);
            Columns own;
            if (kind == FIRST) own.load(reinterpret_cast<const char*>(entry[3]), channels);
            __syncthreads();
            if (kind == FIRST) {
#pragma unroll 1
                for (int round = 0; round < channels.count; round += ROUND) {
                    const int i = lane_row < 0 ? -1 : lane_row + round;
                    if (i < 0 || i >= channels.count) continue;
                    if (round) conv.load(conv_state, constants, channels.first + i);
                    mine_x[i] = conv.convolve(conv_state, channels.first + i, in_row(m, constants, kind, m.early, i, factor));
                }
                __syncthreads();
                own.add_product(p.totals, mine_x, channels, constants);
            } else if (kind == SECOND) {
                for (int i = tid; i < channels.count; i += NT) {
                    const float z = in_row(m, constants, kind, m.partial, i, factor);
                    mine_z[i] = z * sigmoid(z);
                }
            } else if (kind == OUT) {
                leave(p, m, kind, constants, 1.0f, tag);
            } else {
                finish(p, m, factor);
            }
        }
    }
    if (blockIdx.x == 0)
        for (int i = tid; i < LOW; i += NT) p.seen[i] = seen[i];
}
