// Mamba-1 selective scan, backward. With g_t the gradient that reaches the state h_t: g_t = C_t dy_t + a_{t+1} g_{t+1}.
// The forward pass left the state before every K-th step. A warp takes the windows of K steps from last to first: it runs forward
// through a window, then takes its tiles of T steps from last to first with the tile's decays a_t and a_t h_{t-1} in registers.
// dB and dC are sums over channels: over lanes by exchanges, over the warps of a block through shared memory, over blocks by
// scan_sums, in a fixed order throughout.
#include "scan_layout.cuh"

struct BackwardArguments {
    const char *u, *dt, *z, *dout, *B, *C, *A, *D, *bias;
    const float *checkpoint, *added, *sum_dt;
    char *du, *ddt, *dz;
    float *dA, *dD, *dbias, *dB, *dC;
    i64 u_b, u_l, dt_b, dt_l, z_b, z_l, dout_b, dout_l, du_b, du_l, ddt_b, ddt_l, dz_b, dz_l, B_b, B_g, B_l, C_b, C_g, C_l;  // bytes
    i64 a_d, a_n;                                                                                                            // elements
    i64 length, channels, group, blocks, steps, chunk, chunks, batch, groups;
};

constexpr int TILES = K / T;
constexpr int PAIR = LN > 2 * NC ? LN / NC : 2;  // time steps whose sums are exchanged together
constexpr int KEPT = Rows<TU, K>::PIECES;
constexpr int WORDS_KEPT = KEPT * E * (sizeof(TU) + sizeof(TDT) + sizeof(TZ) + sizeof(TU)) / 4;
// of a warp: dt, x, dy, y, along_B, along_A; B and C; sums for D and bias; states before tiles; inputs as read; bias and D
constexpr int WARP_FLOATS =
    6 * K * CW + K * 2 * N + 32 * 2 * E + (TILES - 1) * NC * NS * 32 + WORDS_KEPT * 32 + (2 * CW + 3) / 4 * 4;
constexpr int BLOCK_FLOATS = 2 * WARPS * K * 2 * N;

// Four words a lane at a time, the lanes side by side.
template <int COUNT> __device__ __forceinline__ void set_aside(unsigned*& words, const Words<COUNT>& x) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) words[i / 4 * 128 + i % 4] = x.w[i];
    words += COUNT / 4 * 128;
}
template <int COUNT> __device__ __forceinline__ void take_back(const unsigned*& words, Words<COUNT>& x) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) x.w[i] = words[i / 4 * 128 + i % 4];
    words += COUNT / 4 * 128;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, MIN_BLOCKS) scan_backward(const BackwardArguments p) {
    extern __shared__ __align__(16) float shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channels = p.channels;
    float* sums_s = shared;
    float* dt_s = shared + BLOCK_FLOATS + warp * WARP_FLOATS;
    float *x_s = dt_s + K * CW, *dy_s = x_s + K * CW, *y_s = dy_s + K * CW, *along_s = y_s + K * CW, *bc_s = along_s + 2 * K * CW;
    float *own_s = bc_s + K * 2 * N, *h_s = own_s + 32 * 2 * E, *raw_s = h_s + (TILES - 1) * NC * NS * 32;
    float *bias_s = raw_s + WORDS_KEPT * 32, *D_s = bias_s + CW;
    const int block = blockIdx.x % p.blocks, c = blockIdx.x / p.blocks % p.chunks;
    const i64 b = blockIdx.x / p.blocks / p.chunks;
    const int ch0 = (block * WARPS + warp) * CW;
    const int nl = lane % LN, cl = lane / LN, first = ch0 + cl * NC, n0 = nl * NS;
    const bool mine = first < channels;
    const int blocks_of_group = int(p.blocks / p.groups);
    const i64 g_index = block / blocks_of_group;

    for (int i = lane; i < CW; i += 32) {
        bias_s[i] = HAS_BIAS && ch0 + i < channels ? Format<TBIAS>::one(p.bias, ch0 + i) : 0.0f;
        D_s[i] = HAS_D && ch0 + i < channels ? Format<TD>::one(p.D, ch0 + i) : 0.0f;
    }
    float A[NC][NS], g[NC][NS], dA[NC][NS];
    load_A(A, p.A, p.a_d, p.a_n, first, n0, channels);
#pragma unroll
    for (int i = 0; i < NC; i++)
#pragma unroll
        for (int n = 0; n < NS; n++) g[i][n] = dA[i][n] = 0.0f;
    // what the later chunks pass on
    for (int later = p.chunks - 1; later > c; later--)
        if (mine) {
            const i64 row = b * p.chunks + later;
            float total[NC];
            load_floats(total, p.sum_dt + row * channels + first);
#pragma unroll
            for (int n = 0; n < NS; n++) {
                float added[NC];
                load_floats(added, p.added + (row * N + n0 + n) * channels + first);
#pragma unroll
                for (int i = 0; i < NC; i++) g[i][n] = fmaf(decay_of(total[i] * A[i][n]), g[i][n], added[i]);
            }
        }
    float nothing[2 * E];
#pragma unroll
    for (int i = 0; i < 2 * E; i++) nothing[i] = 0.0f;
    float* own = own_s + lane * 2 * E;  // this lane's part of dD, then of dbias
    store_floats(own, nothing);

    const int column = lane % ROW * E;
    const bool live = ch0 + column < channels;
    const i64 start = i64(c) * p.chunk, end = start + p.chunk < p.length ? start + p.chunk : p.length;
    const i64 ch = ch0 + column;
    const char* u = p.u + b * p.u_b + ch * sizeof(TU);
    const char* dt = p.dt + b * p.dt_b + ch * sizeof(TDT);
    const char* z = p.z + b * p.z_b + ch * sizeof(TZ);
    const char* dout = p.dout + b * p.dout_b + ch * sizeof(TU);
    const char* B = p.B + b * p.B_b + g_index * p.B_g;
    const char* C = p.C + b * p.C_b + g_index * p.C_g;
    Rows<TU, K> next_u, next_dout;
    Rows<TDT, K> next_dt;
    Rows<TZ, K> next_z;
    States<TB, K> next_B;
    States<TC, K> next_C;
    auto load = [&](i64 t0) {
        next_dt.load(dt, p.dt_l, t0, end, live, lane);
        next_u.load(u, p.u_l, t0, end, live, lane);
        next_B.load(B, p.B_l, t0, end, lane);
        next_C.load(C, p.C_l, t0, end, lane);
        next_dout.load(dout, p.dout_l, t0, end, live, lane);
        if (HAS_Z) next_z.load(z, p.z_l, t0, end, live, lane);
    };
    const i64 windows = (end - start + K - 1) / K;
    load(start + (windows - 1) * K);
    __syncwarp();
    for (i64 window = windows - 1; window >= 0; window--) {
        const i64 w0 = start + window * K;
        float h[NC][NS];
#pragma unroll
        for (int n = 0; n < NS; n++) {
            float row[NC] = {};
            if (mine) load_floats(row, p.checkpoint + ((b * p.steps + w0 / K) * N + n0 + n) * channels + first);
#pragma unroll
            for (int i = 0; i < NC; i++) h[i][n] = row[i];
        }
        // the inputs, as read, wait in shared memory for the end of the window
        unsigned* words = reinterpret_cast<unsigned*>(raw_s) + lane * 4;
        static_assert(KEPT == 1 && sizeof(next_u.raw[0]) % 16 == 0, "a lane owns one piece of a window, a multiple of 16 bytes");
        set_aside(words, next_u.raw[0]), set_aside(words, next_dt.raw[0]), set_aside(words, next_dout.raw[0]);
        if (HAS_Z) set_aside(words, next_z.raw[0]);
        const bool inside = lane < K * ROW && w0 + lane / ROW < end && live;
        {
            float d[E], x[E], dy[E];
#pragma unroll
            for (int i = 0; i < E; i++) {
                d[i] = inside ? step_size(next_dt.get(0, i), bias_s[column + i]) : 0.0f;
                x[i] = d[i] * next_u.get(0, i);
                dy[i] = next_dout.get(0, i);
                if (HAS_Z) dy[i] *= next_z.get(0, i) * sigmoid(next_z.get(0, i));
            }
            if (lane < K * ROW) {
                store_floats(dt_s + lane * E, d);
                store_floats(x_s + lane * E, x);
                store_floats(dy_s + lane * E, dy);
            }
        }
        next_B.spread(bc_s, lane);
        next_C.spread(bc_s + N, lane);
        if (window > 0) load(w0 - K);
        __syncwarp();
        float* sums = sums_s + ((window & 1) * WARPS + warp) * K * 2 * N;

        for (int tile = 0; tile < TILES - 1; tile++) {
#pragma unroll
            for (int i = 0; i < NC; i++)
#pragma unroll
                for (int n = 0; n < NS; n++) h_s[((tile * NC + i) * NS + n) * 32 + lane] = h[i][n];
#pragma unroll
            for (int t = 0; t < T; t++) {
                float d[NC], x[NC], Bs[NS];
                load_floats(d, dt_s + (tile * T + t) * CW + cl * NC);
                load_floats(x, x_s + (tile * T + t) * CW + cl * NC);
                load_floats(Bs, bc_s + (tile * T + t) * 2 * N + n0);
#pragma unroll
                for (int i = 0; i < NC; i++)
#pragma unroll
                    for (int n = 0; n < NS; n++) h[i][n] = fmaf(decay_of(d[i] * A[i][n]), h[i][n], x[i] * Bs[n]);
            }
        }
#pragma unroll 1
        for (int tile = TILES - 1; tile >= 0; tile--) {
            if (tile < TILES - 1) {
#pragma unroll
                for (int i = 0; i < NC; i++)
#pragma unroll
                    for (int n = 0; n < NS; n++) h[i][n] = h_s[((tile * NC + i) * NS + n) * 32 + lane];
            }
            const int s0 = tile * T;
            float a[T][NC][NS], from[T][NC][NS];
#pragma unroll
            for (int t = 0; t < T; t += PAIR) {
                float y[PAIR * NC], dC[PAIR * NS];
#pragma unroll
                for (int s = 0; s < PAIR; s++) {
                    const int at = s0 + t + s;
                    float d[NC], x[NC], dy[NC], Bs[NS], Cs[NS];
                    load_floats(d, dt_s + at * CW + cl * NC);
                    load_floats(x, x_s + at * CW + cl * NC);
                    load_floats(dy, dy_s + at * CW + cl * NC);
                    load_floats(Bs, bc_s + at * 2 * N + n0);
                    if (HAS_Z) load_floats(Cs, bc_s + at * 2 * N + N + n0);
#pragma unroll
                    for (int i = 0; i < NC; i++)
#pragma unroll
                        for (int n = 0; n < NS; n++) {
                            a[t + s][i][n] = decay_of(d[i] * A[i][n]);
                            from[t + s][i][n] = a[t + s][i][n] * h[i][n];
                            h[i][n] = fmaf(x[i], Bs[n], from[t + s][i][n]);
                            if (HAS_Z) y[s * NC + i] = n ? fmaf(h[i][n], Cs[n], y[s * NC + i]) : h[i][n] * Cs[n];
                            dC[s * NS + n] = i ? fmaf(dy[i], h[i][n], dC[s * NS + n]) : dy[i] * h[i][n];
                        }
                }
                if (HAS_Z) {
                    sum_and_share<PAIR * NC, LN, 1>(y, lane);
#pragma unroll
                    for (int i = 0; i < PAIR * NC / LN; i++) {
                        const int which = nl * (PAIR * NC / LN) + i;
                        y_s[(s0 + t + which / NC) * CW + cl * NC + which % NC] = y[i];
                    }
                }
                sum_and_share<PAIR * NS, LC, LN>(dC, lane);
#pragma unroll
                for (int i = 0; i < PAIR * NS / LC; i++) {
                    const int which = cl * (PAIR * NS / LC) + i;
                    sums[(s0 + t + which / NS) * 2 * N + N + n0 + which % NS] = dC[i];
                }
            }
#pragma unroll
            for (int t = T - PAIR; t >= 0; t -= PAIR) {
                float along[2 * PAIR * NC], dB[PAIR * NS];
#pragma unroll
                for (int s = PAIR - 1; s >= 0; s--) {
                    const int at = s0 + t + s;
                    float d[NC], x[NC], dy[NC], Bs[NS], Cs[NS];
                    load_floats(d, dt_s + at * CW + cl * NC);
                    load_floats(x, x_s + at * CW + cl * NC);
                    load_floats(dy, dy_s + at * CW + cl * NC);
                    load_floats(Bs, bc_s + at * 2 * N + n0);
                    load_floats(Cs, bc_s + at * 2 * N + N + n0);
#pragma unroll
                    for (int i = 0; i < NC; i++) {
                        float along_B = 0.0f, along_A = 0.0f;
#pragma unroll
                        for (int n = 0; n < NS; n++) {
                            g[i][n] = fmaf(dy[i], Cs[n], g[i][n]);
                            along_B = n ? fmaf(g[i][n], Bs[n], along_B) : g[i][n] * Bs[n];
                            dB[s * NS + n] = i ? fmaf(x[i], g[i][n], dB[s * NS + n]) : x[i] * g[i][n];
                            const float kept = g[i][n] * from[t + s][i][n];
                            dA[i][n] = fmaf(d[i], kept, dA[i][n]);
                            along_A = n ? fmaf(kept, A[i][n], along_A) : kept * A[i][n];
                            g[i][n] *= a[t + s][i][n];
                        }
                        along[s * NC + i] = along_B;
                        along[PAIR * NC + s * NC + i] = along_A;
                    }
                }
                sum_and_share<2 * PAIR * NC, LN, 1>(along, lane);
#pragma unroll
                for (int i = 0; i < 2 * PAIR * NC / LN; i++) {
                    const int which = nl * (2 * PAIR * NC / LN) + i, step = which % (PAIR * NC) / NC;
                    along_s[(which / (PAIR * NC) * K + s0 + t + step) * CW + cl * NC + which % NC] = along[i];
                }
                sum_and_share<PAIR * NS, LC, LN>(dB, lane);
#pragma unroll
                for (int i = 0; i < PAIR * NS / LC; i++) {
                    const int which = cl * (PAIR * NS / LC) + i;
                    sums[(s0 + t + which / NS) * 2 * N + n0 + which % NS] = dB[i];
                }
            }
        }
        // also the border between the warps' reads of this window's arrays and their writes of the next; sums_s has two halves
        __syncthreads();
        for (int i = threadIdx.x; i < K * 2 * N; i += WARPS * 32) {
            const i64 t = w0 + i / (2 * N);
            const int n = i % (2 * N);
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < WARPS; k++) sum += sums_s[((window & 1) * WARPS + k) * K * 2 * N + i];
            const i64 row = ((block % blocks_of_group * p.batch + b) * p.groups + g_index) * p.length + t;
            if (t < end) (n < N ? p.dB : p.dC)[row * N + n % N] = sum;
        }
        if (inside) {
            const unsigned* words = reinterpret_cast<unsigned*>(raw_s) + lane * 4;
            Raw<TU, E> raw_u, raw_dout;
            Raw<TDT, E> raw_dt;
            Raw<TZ, E> raw_z;
            take_back(words, raw_u), take_back(words, raw_dt), take_back(words, raw_dout);
            if (HAS_Z) take_back(words, raw_z);
            float du[E], ddt[E], dz[E], y[E], along_B[E], along_A[E], kept[2 * E];
            load_floats(y, y_s + lane * E);
            load_floats(along_B, along_s + lane * E);
            load_floats(along_A, along_s + K * CW + lane * E);
            load_floats(kept, own);
#pragma unroll
            for (int i = 0; i < E; i++) {
                const float x = Format<TU>::get(raw_u, i), raw = Format<TDT>::get(raw_dt, i) + bias_s[column + i];
                float dy = Format<TU>::get(raw_dout, i), size = raw;
                if (HAS_Z) {
                    const float gate = Format<TZ>::get(raw_z, i), s = sigmoid(gate);
                    dz[i] = dy * fmaf(D_s[column + i], x, y[i]) * s * (1.0f + gate * (1.0f - s));
                    dy *= gate * s;
                }
                float slope = 1.0f;
#if SOFTPLUS
                size = softplus(raw);
                slope = sigmoid(raw);
#endif
                du[i] = fmaf(size, along_B[i], D_s[column + i] * dy);
                ddt[i] = fmaf(x, along_B[i], along_A[i] * LN2) * slope;
                kept[i] = fmaf(dy, x, kept[i]);
                kept[E + i] += ddt[i];
            }
            store_floats(own, kept);
            const i64 t = w0 + lane / ROW;
            write_piece<TU>(p.du + b * p.du_b + t * p.du_l + ch * sizeof(TU), du);
            write_piece<TDT>(p.ddt + b * p.ddt_b + t * p.ddt_l + ch * sizeof(TDT), ddt);
            if (HAS_Z) write_piece<TZ>(p.dz + b * p.dz_b + t * p.dz_l + ch * sizeof(TZ), dz);
        }
        __syncwarp();
    }
    const i64 row = b * p.chunks + c;
    if (mine) {
#pragma unroll
        for (int n = 0; n < NS; n++) {
            float out[NC];
#pragma unroll
            for (int i = 0; i < NC; i++) out[i] = dA[i][n];
            store_floats(p.dA + (row * N + n0 + n) * channels + first, out);
        }
    }
    __syncwarp();
    for (int i = lane; i < CW; i += 32)
        if (ch0 + i < channels) {
            float dD = 0.0f, dbias = 0.0f;
            for (int owner = i / E; owner < 32; owner += ROW) {
                dD += own_s[owner * 2 * E + i % E];
                dbias += own_s[owner * 2 * E + E + i % E];
            }
            if (HAS_D) p.dD[row * channels + ch0 + i] = dD;
            if (HAS_BIAS) p.dbias[row * channels + ch0 + i] = dbias;
        }
}
