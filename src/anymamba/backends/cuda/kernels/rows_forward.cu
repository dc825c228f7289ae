// Mamba-1 selective scan, forward, where the steps of a channel lie side by side in memory: rows_layout.cuh says who owns what.
// A tile's element-wise work is done in registers. Then, state by state: each lane runs through its steps from zero, the lanes' results
// are joined along time by exchanges (and those of the warps by shared memory), and each lane runs through its steps again from the
// state that reaches it. Decays are computed once.
#include "rows_layout.cuh"

struct RowsForwardArguments {
    const char *u, *dt, *z, *B, *C, *A, *D, *bias;
    char* out;
    float *last, *states;
    const int* marks;      // (batch, length): where documents begin, and padding
    const float* initial;  // (batch, channels, N): the state before the first step
    i64 u_b, u_d, dt_b, dt_d, z_b, z_d, out_b, out_d, B_b, B_g, B_n, C_b, C_g, C_n;  // bytes
    i64 A_d, A_n, B_d, B_m, C_d, C_m;  // elements: of A, and of B and C that are constant in time
    i64 length, channels, group, blocks, blocks_of_group, kept, every;
};

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) rows_forward(const RowsForwardArguments p) {
    extern __shared__ __align__(16) float shared[];
    float* h_s = shared;                              // [CHANNELS][N + 1][PAIR]
    float* B_s = h_s + CHANNELS * BEFORE;           // [CHANNELS][N] where it is constant, and so is C
    float* C_s = B_s + (B_CONSTANT ? CHANNELS * N : 0);
    float* joined_s = C_s + (C_CONSTANT ? CHANNELS * N : 0);  // [2][WT][CHANNELS][2]: decay and added state of each warp
    float* ring_s = joined_s + (WT > 1 ? 4 * WT * CHANNELS : 0);
    ring_s = shared + ((ring_s - shared) + 3) / 4 * 4;
    const Place me(p.blocks, p.blocks_of_group, p.group);
    const i64 block_first = me.first - me.slot;
    for (int i = threadIdx.x; i < CHANNELS * N; i += THREADS) {
        const i64 ch = block_first + i / N <= me.last ? block_first + i / N : me.last, n = i % N;
        float* at = h_s + i / N * BEFORE + n * PAIR;
        at[0] = Format<TA>::one(p.A, ch * p.A_d + n * p.A_n) * LOG2E;
        at[1] = HAS_INITIAL ? p.initial[(me.b * p.channels + ch) * N + n] : 0.0f;
        if (B_CONSTANT) B_s[i] = Format<TB>::one(p.B, ch * p.B_d + n * p.B_m);
        if (C_CONSTANT) C_s[i] = Format<TC>::one(p.C, ch * p.C_d + n * p.C_m);
    }
    float bias[NC], D[NC];
    const char *u = p.u + me.b * p.u_b, *dt = p.dt + me.b * p.dt_b, *z = p.z + me.b * p.z_b;
#pragma unroll
    for (int c = 0; c < NC; c++) {
        const i64 ch = me.channel(c);
        bias[c] = HAS_BIAS ? Format<TBIAS>::one(p.bias, ch) : 0.0f;
        D[c] = HAS_D ? Format<TD>::one(p.D, ch) : 0.0f;
    }
    __syncthreads();
    int turn = 0;
    Matrices<1> rows(p.B + me.b * p.B_b + me.g * p.B_g, p.C + me.b * p.C_b + me.g * p.C_g, p.B_n, p.C_n, p.length,
                     (me.wt * LT + me.lt) * ITEMS, ring_s, B_s + me.slot * N, C_s + me.slot * N);
    for (i64 t0 = 0; t0 < p.length; t0 += TILE, turn ^= 1) {
        const i64 t = t0 + (me.wt * LT + me.lt) * ITEMS, steps = p.length - t;
        float d[NC][ITEMS], x[NC][ITEMS], y[NC][ITEMS], sum[NC];
        Documents documents;
        documents.load(p.marks + me.b * p.length, t, steps);
        {
            Items<TU, ALIGN> raw_u[NC];
            Items<TDT, ALIGN> raw_dt[NC];
#pragma unroll
            for (int c = 0; c < NC; c++) {
                raw_u[c].load(u + me.channel(c) * p.u_d + t * sizeof(TU), steps);
                raw_dt[c].load(dt + me.channel(c) * p.dt_d + t * sizeof(TDT), steps);
            }
#pragma unroll
            for (int c = 0; c < NC; c++) {
                sum[c] = 0.0f;
#pragma unroll
                for (int i = 0; i < ITEMS; i++) {
                    const float in = documents.pads(i) ? 0.0f : raw_u[c].get(i);
                    d[c][i] = i < steps && !documents.pads(i) ? step_size(raw_dt[c].get(i), bias[c]) : 0.0f;
                    x[c][i] = d[c][i] * in;
                    y[c][i] = HAS_D ? D[c] * in : 0.0f;
                    sum[c] += d[c][i];
                    hold(x[c][i]);
                }
                hold(sum[c]);
            }
        }
        const bool keep = STATES_OF_LANES && steps > 0 && t % p.every == 0;
        if (STATES_OF_TILES && t0 % p.every == 0) {
            const int whole = ROWS * NC * N, first = me.slot / (ROWS * NC) * whole;  // of this warp
            for (int i = me.lane; i < whole; i += 32)
                if (block_first + (first + i) / N <= me.last)
                    p.states[((me.b * p.kept + t0 / p.every) * p.channels + block_first) * N + first + i] = h_s[(first + i) / N * BEFORE + (first + i) % N * PAIR + 1];
            __syncwarp();
        }
#pragma unroll UNROLLED
        for (int n = 0; n < N; n++) {
            float* mine = h_s + me.slot * BEFORE + n * PAIR;
            rows.advance(n);
            float a[NC][ITEMS], input[NC][ITEMS], decay[NC], added[NC], before[NC], h[NC];
#pragma unroll
            for (int c = 0; c < NC; c++) {
                float pair[PAIR];
                load_floats(pair, mine + c * BEFORE);
                before[c] = WT > 1 && turn ? pair[PAIR - 2] : pair[1];
                added[c] = steps_from_zero(a[c], input[c], d[c], x[c], pair[0], documents, [&](int i) { return documents.pads(i) ? 0.0f : rows.get_B(c, i, n); });
                decay[c] = documents.decay(sum[c] * pair[0]);
                if (WT == 1 && me.lt == 0) added[c] = fmaf(decay[c], before[c], added[c]);
            }
            scan_forwards(decay, added);
            if constexpr (WT == 1) {
#pragma unroll
                for (int c = 0; c < NC; c++) {
                    h[c] = from_before<LT>(added[c], 1);
                    if (me.lt == 0) h[c] = before[c];
                    if (me.lt == LT - 1) mine[c * BEFORE + 1] = added[c];
                }
            } else {
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
                    float state = before[c], here = before[c];
#pragma unroll
                    for (int w = 0; w < WT; w++) {
                        float pair[2];
                        load_floats(pair, joined + (w * CHANNELS + me.slot + c) * 2);
                        if (w == me.wt) here = state;
                        state = fmaf(pair[0], state, pair[1]);
                    }
                    const float reach = from_before<LT>(decay[c], 1), from = from_before<LT>(added[c], 1);
                    h[c] = me.lt == 0 ? here : fmaf(reach, here, from);
                    if (me.wt == WT - 1 && me.lt == LT - 1) mine[c * BEFORE + (turn ? 1 : PAIR - 2)] = state;
                }
            }
#pragma unroll
            for (int c = 0; c < NC; c++) {
                if (keep && me.has(c)) p.states[((me.b * p.kept + t / p.every) * p.channels + me.first + c) * N + n] = h[c];
#pragma unroll
                for (int i = 0; i < ITEMS; i++) {
                    h[c] = fmaf(a[c][i], h[c], input[c][i]);
                    y[c][i] = fmaf(h[c], documents.pads(i) ? 0.0f : rows.get_C(c, i, n), y[c][i]);
                }
            }
        }
#pragma unroll
        for (int c = 0; c < NC; c++) {
            if (HAS_Z) {
                Items<TZ, ALIGN> gate;  // loaded late: the registers are needed until here
                gate.load(z + me.channel(c) * p.z_d + t * sizeof(TZ), steps);
#pragma unroll
                for (int i = 0; i < ITEMS; i++) y[c][i] = documents.pads(i) ? 0.0f : y[c][i] * (gate.get(i) * sigmoid(gate.get(i)));
            }
            if (me.has(c)) write_items<TU, ALIGN_OUT>(p.out + me.b * p.out_b + (me.first + c) * p.out_d + t * sizeof(TU), y[c], steps);
        }
        if (WT == 1) __syncwarp();
        else __syncthreads();
    }
    if (HAS_LAST) {
        __syncthreads();
        for (int i = threadIdx.x; i < CHANNELS * N; i += THREADS)
            if (block_first + i / N <= me.last)
                p.last[(me.b * p.channels + block_first) * N + i] = h_s[i / N * BEFORE + i % N * PAIR + (WT > 1 && turn ? PAIR - 2 : 1)];
    }
}
