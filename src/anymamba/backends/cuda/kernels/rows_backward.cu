// Mamba-1 selective scan, backward, where the steps of a channel lie side by side in memory. With g_t the gradient that reaches h_t:
// g_t = C_t dy_t + a_{t+1} g_{t+1}. Tiles are taken from last to first; forward left the state before each. State by state, a lane
// runs through its steps as forward does, keeps a_t and a_t h_{t-1}, and joins what passes back along time in the same way.
// dB and dC are sums over channels: over those of a lane in registers, over the block through shared memory, over blocks by rows_sums,
// in a fixed order throughout.
#include "rows_layout.cuh"

struct RowsBackwardArguments {
    const char *u, *dt, *z, *dout, *B, *C, *A, *D, *bias;
    const float* states;
    char *du, *ddt, *dz;
    float *dA, *dB, *dC, *dD, *dbias;
    const int* marks;  // (batch, length): where documents begin, and padding
    float* dinitial;   // (batch, channels, N)
    i64 u_b, u_d, dt_b, dt_d, z_b, z_d, dout_b, dout_d, B_b, B_g, B_n, C_b, C_g, C_n;  // bytes
    i64 A_d, A_n, B_d, B_m, C_d, C_m;                                                  // elements
    i64 du_b, du_d, ddt_b, ddt_d, dz_b, dz_d;                                          // bytes
    i64 length, channels, group, blocks, blocks_of_group, batch, groups;
};

constexpr int SLICES = WC * ROWS;                          // lanes whose sums add up to dB and dC of a step
constexpr int SLICE = ROUND * 2 * TILE;                    // [ROUND][dB, dC][TILE]: of ROUND states, which are added up together
constexpr int FOURS = SLICE / 4;                           // a thread adds up four neighbouring values
constexpr int SPARE = THREADS / FOURS;
constexpr int SHARES = SPARE >= 4 && SLICES >= 4 ? 4 : SPARE >= 2 && SLICES >= 2 ? 2 : 1;  // or so many threads do
constexpr int WIDE = 32 / SHARES;                          // of a warp's threads, those that add up different values
constexpr int OF_CHANNEL = (N + 1) * 4;                    // without the gap the states of neighbours would lie in the same banks
constexpr int STATE = 4;                                   // floats: A times log2(e), h before the tile, g after it and after the next

__device__ __forceinline__ void store_halves(float* to, const float (&x)[ITEMS]) {
    const float first[4] = {x[0], x[1], x[2], x[3]}, second[4] = {x[4], x[5], x[6], x[7]};
    store_floats(to, first);
    store_floats(to + TILE / 2, second);
}

// The sum over the LT lanes along time, in the first of them.
__device__ __forceinline__ float sum_along_time(float x) {
#pragma unroll
    for (int k = LT / 2; k > 0; k /= 2) x += exchange(x, k);
    return x;
}

// dB and dC of the ROUND states from n0 on, over the channels of the block, to where those of the tile and state 0 go. left: its steps.
__device__ __forceinline__ void add_up(const RowsBackwardArguments& p, const Place& me, const float* sums, int n0, float* dB, float* dC, i64 left) {
    const int share = me.lane / WIDE;
#pragma unroll 1
    for (int four = threadIdx.x / 32 * WIDE + me.lane % WIDE; four < (FOURS + WIDE - 1) / WIDE * WIDE; four += THREADS / SHARES) {
        const int at = four * 4, n = n0 + at / (2 * TILE), in_half = at % (TILE / 2);
        float total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int s = 0; s < SLICES / SHARES; s++) {
            float part[4];
            load_floats(part, sums + (share * (SLICES / SHARES) + s) * SLICE + (FOURS % WIDE == 0 || four < FOURS ? at : 0));
#pragma unroll
            for (int i = 0; i < 4; i++) total[i] += part[i];
        }
        sum_and_share<4, SHARES, WIDE>(total, me.lane);
        const bool of_C = at / TILE % 2;
        const int step = in_half / 4 * ITEMS + at % TILE / (TILE / 2) * 4 + share * (4 / SHARES);
        float* to = (of_C ? dC : dB) + n * p.length + step;
        if (four < FOURS && n < N && !(of_C ? C_CONSTANT : B_CONSTANT))
#pragma unroll
            for (int i = 0; i < 4 / SHARES; i++)
                if (step + i < left) to[i] = total[i];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) rows_backward(const RowsBackwardArguments p) {
    extern __shared__ __align__(16) float shared[];
    float* sums_s = shared;                       // [2][SLICES][SLICE]
    float* state_s = sums_s + 2 * SLICES * SLICE;  // [CHANNELS][N + 1][STATE]
    float* dA_s = state_s + CHANNELS * OF_CHANNEL;  // [N][NC][THREADS] if PRIVATE, else [WT][CHANNELS][N]
    float* dB_s = dA_s + (PRIVATE ? NC * THREADS : WT * CHANNELS) * N;  // [WT][CHANNELS][N] where B is constant, and so is C's
    float* dC_s = dB_s + (B_CONSTANT ? WT * CHANNELS * N : 0);
    float* B_s = dC_s + (C_CONSTANT ? WT * CHANNELS * N : 0);
    float* C_s = B_s + (B_CONSTANT ? CHANNELS * N : 0);
    float* joined_s = C_s + (C_CONSTANT ? CHANNELS * N : 0);  // [2: forward, back][2][WT][CHANNELS][2]
    float* ring_s = joined_s + (WT > 1 ? 8 * WT * CHANNELS : 0);
    ring_s = shared + ((ring_s - shared) + 3) / 4 * 4;
    const Place me(p.blocks, p.blocks_of_group, p.group);
    const i64 block_first = me.first - me.slot;
    for (int i = threadIdx.x; i < CHANNELS * N; i += THREADS) {
        const i64 ch = block_first + i / N <= me.last ? block_first + i / N : me.last, n = i % N;
        float* at = state_s + i / N * OF_CHANNEL + n * STATE;
        at[0] = Format<TA>::one(p.A, ch * p.A_d + n * p.A_n) * LOG2E;
        at[2] = 0.0f;
        for (int w = 0; w < WT; w++) {
            if (!PRIVATE) dA_s[w * CHANNELS * N + i] = 0.0f;
            if (B_CONSTANT) dB_s[w * CHANNELS * N + i] = 0.0f;
            if (C_CONSTANT) dC_s[w * CHANNELS * N + i] = 0.0f;
        }
        if (B_CONSTANT) B_s[i] = Format<TB>::one(p.B, ch * p.B_d + n * p.B_m);
        if (C_CONSTANT) C_s[i] = Format<TC>::one(p.C, ch * p.C_d + n * p.C_m);
    }
    if (PRIVATE)
        for (int i = 0; i < NC * N; i++) dA_s[i * THREADS + threadIdx.x] = 0.0f;
    float bias[NC], D[NC], dD[NC], dbias[NC];
#pragma unroll
    for (int c = 0; c < NC; c++) {
        bias[c] = HAS_BIAS ? Format<TBIAS>::one(p.bias, me.channel(c)) : 0.0f;
        D[c] = HAS_D ? Format<TD>::one(p.D, me.channel(c)) : 0.0f;
        dD[c] = dbias[c] = 0.0f;
    }
    const i64 part = ((blockIdx.x % p.blocks % p.blocks_of_group * p.batch + me.b) * p.groups + me.g) * N * p.length;
    float *dB_to = p.dB + part, *dC_to = p.dC + part;
    const i64 tiles = (p.length + TILE - 1) / TILE;
    int turn = 0;
    Matrices<-1> rows(p.B + me.b * p.B_b + me.g * p.B_g, p.C + me.b * p.C_b + me.g * p.C_g, p.B_n, p.C_n, p.length,
                      (tiles - 1) * TILE + (me.wt * LT + me.lt) * ITEMS, ring_s, B_s + me.slot * N, C_s + me.slot * N);
    for (i64 tile = tiles - 1; tile >= 0; tile--, turn ^= 1) {
        const i64 t = tile * TILE + (me.wt * LT + me.lt) * ITEMS, steps = p.length - t;
        __syncthreads();
        for (int i = threadIdx.x; i < CHANNELS * N; i += THREADS)
            state_s[i / N * OF_CHANNEL + i % N * STATE + 1] = block_first + i / N <= me.last ? p.states[((me.b * tiles + tile) * p.channels + block_first) * N + i] : 0.0f;
        float d[NC][ITEMS], x[NC][ITEMS], dy[NC][ITEMS], sum[NC];
        float y[NC][ITEMS], along_B[NC][ITEMS], along_A[NC][ITEMS];
        Documents documents;
        documents.load(p.marks + me.b * p.length, t, steps);
        const auto of_B = [&](int c, int i, int n) { return documents.pads(i) ? 0.0f : rows.get_B(c, i, n); };
        const auto of_C = [&](int c, int i, int n) { return documents.pads(i) ? 0.0f : rows.get_C(c, i, n); };
#pragma unroll
        for (int c = 0; c < NC; c++) {
            const i64 ch = me.channel(c);
            Items<TU, ALIGN> raw_u;
            Items<TU, ALIGN> raw_dout;
            Items<TDT, ALIGN> raw_dt;
            Items<TZ, ALIGN> gate;
            raw_u.load(p.u + me.b * p.u_b + ch * p.u_d + t * sizeof(TU), steps);
            raw_dt.load(p.dt + me.b * p.dt_b + ch * p.dt_d + t * sizeof(TDT), steps);
            raw_dout.load(p.dout + me.b * p.dout_b + ch * p.dout_d + t * sizeof(TU), steps);
            if (HAS_Z) gate.load(p.z + me.b * p.z_b + ch * p.z_d + t * sizeof(TZ), steps);
            sum[c] = 0.0f;
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                const bool real = !documents.pads(i);
                d[c][i] = i < steps && real ? step_size(raw_dt.get(i), bias[c]) : 0.0f;
                x[c][i] = d[c][i] * (real ? raw_u.get(i) : 0.0f);
                // a lane beyond the group adds nothing to dB and dC
                dy[c][i] = me.has(c) && real ? raw_dout.get(i) : 0.0f;
                if (HAS_Z) dy[c][i] *= real ? gate.get(i) * sigmoid(gate.get(i)) : 0.0f;
                sum[c] += d[c][i];
                y[c][i] = along_B[c][i] = along_A[c][i] = 0.0f;
                hold(x[c][i]), hold(dy[c][i]);
            }
            hold(sum[c]);
        }
        __syncthreads();
#pragma unroll UNROLLED
        for (int n = 0; n < N; n++) {
            float* mine = state_s + me.slot * OF_CHANNEL + n * STATE;
            rows.advance(n);
            float a[NC][ITEMS], from[NC][ITEMS];  // from: first x_t B_t, then a_t h_{t-1}
            float A[NC], whole[NC], decay[NC], added[NC], h[NC], g[NC], dB[ITEMS], dC[ITEMS], dC_of[NC];
#pragma unroll
            for (int c = 0; c < NC; c++) {
                float state[STATE];
                load_floats(state, mine + c * OF_CHANNEL);
                A[c] = state[0], h[c] = state[1], g[c] = WT > 1 && turn ? state[3] : state[2];
                added[c] = steps_from_zero(a[c], from[c], d[c], x[c], A[c], documents, [&](int i) { return of_B(c, i, n); });
                whole[c] = decay[c] = documents.decay(sum[c] * A[c]);
                if (WT == 1 && me.lt == 0) added[c] = fmaf(decay[c], h[c], added[c]);
            }
            scan_forwards(decay, added);
            if constexpr (WT > 1) {
                float* joined = joined_s + (n & 1) * WT * CHANNELS * 2;
#pragma unroll
                for (int c = 0; c < NC; c++)
                    if (me.lt == LT - 1) {
                        const float pair[2] = {decay[c], added[c]};
                        store_floats(joined + (me.wt * CHANNELS + me.slot + c) * 2, pair);
                    }
                __syncthreads();
#pragma unroll
                for (int c = 0; c < NC; c++) {
#pragma unroll
                    for (int w = 0; w < WT - 1; w++) {
                        float pair[2];
                        load_floats(pair, joined + (w * CHANNELS + me.slot + c) * 2);
                        if (w < me.wt) h[c] = fmaf(pair[0], h[c], pair[1]);
                    }
                    const float reach = from_before<LT>(decay[c], 1), add = from_before<LT>(added[c], 1);
                    if (me.lt > 0) h[c] = fmaf(reach, h[c], add);
                }
            } else {
#pragma unroll
                for (int c = 0; c < NC; c++) {
                    const float before = from_before<LT>(added[c], 1);
                    if (me.lt > 0) h[c] = before;
                }
            }
            // forward through the steps, then what they pass back from nothing
#pragma unroll
            for (int c = 0; c < NC; c++) {
                float to_C = 0.0f, back = 0.0f;
#pragma unroll
                for (int i = 0; i < ITEMS; i++) {
                    const float carried = a[c][i] * h[c];
                    h[c] = carried + from[c][i];
                    from[c][i] = carried;
                    if (HAS_Z) y[c][i] = fmaf(h[c], of_C(c, i, n), y[c][i]);
                    if (C_CONSTANT) to_C = fmaf(dy[c][i], h[c], to_C);
                    else dC[i] = c ? fmaf(dy[c][i], h[c], dC[i]) : dy[c][i] * h[c];
                }
                dC_of[c] = to_C;
#pragma unroll
                for (int i = ITEMS - 1; i >= 0; i--) back = a[c][i] * fmaf(of_C(c, i, n), dy[c][i], back);
                decay[c] = whole[c], added[c] = back;
                if (WT == 1 && me.lt == LT - 1) added[c] = fmaf(decay[c], g[c], added[c]);
            }
            scan_backwards(decay, added);
            if constexpr (WT > 1) {
                float* joined = joined_s + (2 + (n & 1)) * WT * CHANNELS * 2;
#pragma unroll
                for (int c = 0; c < NC; c++)
                    if (me.lt == 0) {
                        const float pair[2] = {decay[c], added[c]};
                        store_floats(joined + (me.wt * CHANNELS + me.slot + c) * 2, pair);
                    }
                __syncthreads();
#pragma unroll
                for (int c = 0; c < NC; c++) {
                    float all = g[c], here = g[c];
#pragma unroll
                    for (int w = WT - 1; w >= 0; w--) {
                        float pair[2];
                        load_floats(pair, joined + (w * CHANNELS + me.slot + c) * 2);
                        if (w == me.wt) here = all;
                        all = fmaf(pair[0], all, pair[1]);
                    }
                    if (me.wt == 0 && me.lt == 0) mine[c * OF_CHANNEL + (turn ? 2 : 3)] = all;
                    const float reach = from_after<LT>(decay[c], 1), add = from_after<LT>(added[c], 1);
                    g[c] = me.lt == LT - 1 ? here : fmaf(reach, here, add);
                }
            } else {
#pragma unroll
                for (int c = 0; c < NC; c++) {
                    const float after = from_after<LT>(added[c], 1);
                    if (me.lt < LT - 1) g[c] = after;
                    if (me.lt == 0) mine[c * OF_CHANNEL + 2] = added[c];
                }
            }
#pragma unroll
            for (int c = 0; c < NC; c++) {
                float dA = 0.0f, to_B = 0.0f;
#pragma unroll
                for (int i = ITEMS - 1; i >= 0; i--) {
                    const float reached = fmaf(of_C(c, i, n), dy[c][i], g[c]), kept = reached * from[c][i];
                    if (B_CONSTANT) to_B = fmaf(x[c][i], reached, to_B);
                    else dB[i] = c ? fmaf(x[c][i], reached, dB[i]) : x[c][i] * reached;
                    along_B[c][i] = fmaf(reached, of_B(c, i, n), along_B[c][i]);
                    along_A[c][i] = fmaf(kept, A[c], along_A[c][i]);
                    dA = fmaf(d[c][i], kept, dA);
                    g[c] = a[c][i] * reached;
                }
                const int at = (me.wt * CHANNELS + me.slot + c) * N + n;
                if (PRIVATE) {
                    dA_s[(n * NC + c) * THREADS + threadIdx.x] += dA;
                } else {
                    dA = sum_along_time(dA);
                    if (me.lt == 0) dA_s[at] += dA;
                }
                if (B_CONSTANT) {
                    to_B = sum_along_time(to_B);
                    if (me.lt == 0) dB_s[at] += to_B;
                }
                if (C_CONSTANT) {
                    const float to_C = sum_along_time(dC_of[c]);
                    if (me.lt == 0) dC_s[at] += to_C;
                }
            }
            if (!B_CONSTANT || !C_CONSTANT) {
                float* sums = sums_s + n / ROUND % 2 * SLICES * SLICE;
                // the first four steps of all lanes, then the last four: no two lanes meet in a bank
                float* own = sums + me.slot / NC * SLICE + n % ROUND * 2 * TILE + (me.wt * LT + me.lt) * 4;
                if (!B_CONSTANT) store_halves(own, dB);
                if (!C_CONSTANT) store_halves(own + TILE, dC);
                if (n % ROUND == ROUND - 1 || n == N - 1) {
                    __syncthreads();  // what is written next is the other half
                    add_up(p, me, sums, n / ROUND * ROUND, dB_to + tile * TILE, dC_to + tile * TILE, p.length - tile * TILE);
                }
            }
        }
#pragma unroll
        for (int c = 0; c < NC; c++) {
            const i64 ch = me.channel(c);
            Items<TU, ALIGN> raw_u;
            Items<TU, ALIGN> raw_dout;
            Items<TDT, ALIGN> raw_dt;
            Items<TZ, ALIGN> gate;
            raw_u.load(p.u + me.b * p.u_b + ch * p.u_d + t * sizeof(TU), steps);
            raw_dt.load(p.dt + me.b * p.dt_b + ch * p.dt_d + t * sizeof(TDT), steps);
            raw_dout.load(p.dout + me.b * p.dout_b + ch * p.dout_d + t * sizeof(TU), steps);
            if (HAS_Z) gate.load(p.z + me.b * p.z_b + ch * p.z_d + t * sizeof(TZ), steps);
            float du[ITEMS], ddt[ITEMS], dz[ITEMS];
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                const bool real = !documents.pads(i);
                const float in = real ? raw_u.get(i) : 0.0f;
                if (HAS_Z) {
                    const float value = gate.get(i), s = sigmoid(value);
                    dz[i] = raw_dout.get(i) * fmaf(D[c], in, y[c][i]) * s * (1.0f + value * (1.0f - s));
                    if (!real) dz[i] = 0.0f;
                }
                float slope = 1.0f;
#if SOFTPLUS
                slope = sigmoid(raw_dt.get(i) + bias[c]);
#endif
                du[i] = fmaf(d[c][i], along_B[c][i], D[c] * dy[c][i]);
                ddt[i] = real ? fmaf(in, along_B[c][i], along_A[c][i] * LN2) * slope : 0.0f;
                dD[c] = fmaf(dy[c][i], in, dD[c]);
                dbias[c] += i < steps ? ddt[i] : 0.0f;
            }
            if (me.has(c)) {
                write_items<TU, ALIGN_OUT>(p.du + me.b * p.du_b + ch * p.du_d + t * sizeof(TU), du, steps);
                write_items<TDT, ALIGN_OUT>(p.ddt + me.b * p.ddt_b + ch * p.ddt_d + t * sizeof(TDT), ddt, steps);
                if (HAS_Z) write_items<TZ, ALIGN_OUT>(p.dz + me.b * p.dz_b + ch * p.dz_d + t * sizeof(TZ), dz, steps);
            }
        }
    }
    __syncthreads();
    // sums_s is free: dD and dbias of every warp
#pragma unroll
    for (int c = 0; c < NC; c++) {
        const float of_D = sum_along_time(dD[c]), of_bias = sum_along_time(dbias[c]);
        if (me.lt == 0) {
            sums_s[me.wt * CHANNELS + me.slot + c] = of_D;
            sums_s[(WT + me.wt) * CHANNELS + me.slot + c] = of_bias;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < CHANNELS; i += THREADS) {
        if (block_first + i > me.last) continue;
        float of_D = 0.0f, of_bias = 0.0f;
        for (int w = 0; w < WT; w++) of_D += sums_s[w * CHANNELS + i], of_bias += sums_s[(WT + w) * CHANNELS + i];
        if (HAS_D) p.dD[me.b * p.channels + block_first + i] = of_D;
        if (HAS_BIAS) p.dbias[me.b * p.channels + block_first + i] = of_bias;
    }
    for (int i = threadIdx.x; i < CHANNELS * N; i += THREADS) {
        if (block_first + i / N > me.last) continue;
        float of_A = 0.0f, of_B = 0.0f, of_C = 0.0f;
        if (PRIVATE)  // those of the lanes and warps along time
            for (int k = 0; k < WT * LT; k++) {
                const int slot = i / N / NC, warp = slot / ROWS * WT + k / LT;
                of_A += dA_s[(i % N * NC + i / N % NC) * THREADS + warp * 32 + slot % ROWS * LT + k % LT];
            }
        for (int w = 0; w < WT; w++) {
            if (!PRIVATE) of_A += dA_s[w * CHANNELS * N + i];
            if (B_CONSTANT) of_B += dB_s[w * CHANNELS * N + i];
            if (C_CONSTANT) of_C += dC_s[w * CHANNELS * N + i];
        }
        const i64 to = (me.b * p.channels + block_first) * N + i;
        p.dA[to] = of_A;
        if (HAS_INITIAL) p.dinitial[to] = state_s[i / N * OF_CHANNEL + i % N * STATE + (WT > 1 && turn ? 3 : 2)];
        if (B_CONSTANT) p.dB[to] = of_B;
        if (C_CONSTANT) p.dC[to] = of_C;
    }
}
