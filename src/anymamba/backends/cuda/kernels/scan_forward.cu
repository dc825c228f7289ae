// Mamba-1 selective scan, forward. One warp walks through time with the states of CW channels in registers; the element-wise work
// (softplus, gate) is done once a value, by lanes that own 8 neighbouring channels of a step, through shared memory. The loads of
// a tile of T steps are issued before the tile before it is computed. No two warps wait for each other.
//
// Where the warps are too few, the length is cut into chunks and the kernel runs twice. CARRY: what a chunk adds to the state and its
// sum of step sizes, from a state of zero, without output. CHUNKED: the chunk from the state that those of the chunks before it give.
#include "scan_forward.cuh"

constexpr int G = LN > NC ? LN / NC : 1;  // time steps whose sums over the states are exchanged together
constexpr int UNROLLED = UNROLL;  // a macro's value does not reach a pragma
constexpr int FORWARD_FLOATS = 3 * T * CW + T * 2 * N + 2 * CW;

#if __CUDA_ARCH__ < 1200
#define BOUNDS __launch_bounds__(WARPS * 32)
#else
#define BOUNDS __launch_bounds__(WARPS * 32, 1)  // or the assembler spills, with registers to spare
#endif

extern "C" __global__ void BOUNDS scan_forward(const ForwardArguments p) {
    extern __shared__ __align__(16) float shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channels = p.channels;
    float* dt_s = shared + warp * ((FORWARD_FLOATS + 3) / 4 * 4);
    float *x_s = dt_s + T * CW, *y_s = x_s + T * CW, *bc_s = y_s + T * CW, *bias_s = bc_s + T * 2 * N, *D_s = bias_s + CW;
    constexpr bool OUTPUT = !CARRY;
    // the last chunk passes nothing on
    const i64 running = p.chunks - (CARRY ? 1 : 0), part = blockIdx.x / p.blocks % running, b = blockIdx.x / p.blocks / running;
    const int ch0 = (int(blockIdx.x % p.blocks) * WARPS + warp) * CW;
    if (ch0 >= channels) return;
    const int nl = lane % LN, cl = lane / LN, first = ch0 + cl * NC, n0 = nl * NS;
    const i64 g = ch0 / p.group;
    for (int i = lane; i < CW; i += 32) {
        bias_s[i] = HAS_BIAS && ch0 + i < channels ? Format<TBIAS>::one(p.bias, ch0 + i) : 0.0f;
        D_s[i] = HAS_D && ch0 + i < channels ? Format<TD>::one(p.D, ch0 + i) : 0.0f;
    }
    float A[NC][NS], h[NC][NS];
    load_A(A, p.A, p.a_d, p.a_n, first, n0, channels);
#pragma unroll
    for (int c = 0; c < NC; c++)
#pragma unroll
        for (int n = 0; n < NS; n++) h[c][n] = 0.0f;
    const i64 start = part * p.chunk, end = start + p.chunk < p.length ? start + p.chunk : p.length;
    if (CHUNKED && !CARRY && first < channels)
#pragma unroll 4
        for (i64 row = b * p.chunks; row < b * p.chunks + part; row++) {
            float total[NC];
            load_floats(total, p.sum_dt + row * channels + first);
#pragma unroll
            for (int n = 0; n < NS; n++) {
                float added[NC];
                load_floats(added, p.added + (row * N + n0 + n) * channels + first);
#pragma unroll
                for (int i = 0; i < NC; i++) h[i][n] = fmaf(decay_of(total[i] * A[i][n]), h[i][n], added[i]);
            }
        }
    float total[NC];
#pragma unroll
    for (int i = 0; i < NC; i++) total[i] = 0.0f;

    const int column = lane % ROW * E;
    const bool live = ch0 + column < channels;
    const char* u = p.u + b * p.u_b + (ch0 + column) * sizeof(TU);
    const char* dt = p.dt + b * p.dt_b + (ch0 + column) * sizeof(TDT);
    const char* z = p.z + b * p.z_b + (ch0 + column) * sizeof(TZ);
    const char* B = p.B + b * p.B_b + g * p.B_g;
    const char* C = p.C + b * p.C_b + g * p.C_g;
    char* out = p.out + b * p.out_b + (ch0 + column) * sizeof(TU);
    Rows<TU, T> next_u;
    Rows<TDT, T> next_dt;
    Rows<TZ, T> next_z;
    States<TB, T> next_B;
    States<TC, T> next_C;
    auto load = [&](i64 t0) {
        next_dt.load(dt, p.dt_l, t0, end, live, lane);
        next_u.load(u, p.u_l, t0, end, live, lane);
        next_B.load(B, p.B_l, t0, end, lane);
        if (OUTPUT) next_C.load(C, p.C_l, t0, end, lane);
        if (OUTPUT && HAS_Z) next_z.load(z, p.z_l, t0, end, live, lane);
    };
    load(start);
    __syncwarp();
    for (i64 t0 = start; t0 < end; t0 += T) {
        const Rows<TU, T> now_u = next_u;
        const Rows<TZ, T> now_z = next_z;
#pragma unroll
        for (int v = 0; v < now_u.PIECES; v++) {
            const int piece = lane + 32 * v;
            float d[E], x[E];
            const bool inside = t0 + piece / ROW < end;
#pragma unroll
            for (int i = 0; i < E; i++) {
                d[i] = inside ? step_size(next_dt.get(v, i), bias_s[column + i]) : 0.0f;
                x[i] = d[i] * now_u.get(v, i);
            }
            if (piece < T * ROW) {
                store_floats(dt_s + piece * E, d);
                store_floats(x_s + piece * E, x);
            }
        }
        next_B.spread(bc_s, lane);
        if (OUTPUT) next_C.spread(bc_s + N, lane);
        if (t0 + T < end) load(t0 + T);
        if (OUTPUT && HAS_CHECKPOINT && t0 % p.every == 0 && first < channels) {
            float* to = p.checkpoint + ((b * p.steps + t0 / p.every) * N + n0) * channels + first;
#pragma unroll
            for (int n = 0; n < NS; n++) {
                float row[NC];
#pragma unroll
                for (int c = 0; c < NC; c++) row[c] = h[c][n];
                store_floats(to + i64(n) * channels, row);
            }
        }
        __syncwarp();
#pragma unroll UNROLLED
        for (int t = 0; t < T; t += G) {
            float y[G * NC];
#pragma unroll
            for (int s = 0; s < G; s++) {
                float d[NC], x[NC], Bs[NS], Cs[NS];
                load_floats(d, dt_s + (t + s) * CW + cl * NC);
                load_floats(x, x_s + (t + s) * CW + cl * NC);
                load_floats(Bs, bc_s + (t + s) * 2 * N + n0);
                if (OUTPUT) load_floats(Cs, bc_s + (t + s) * 2 * N + N + n0);
#pragma unroll
                for (int c = 0; c < NC; c++) {
                    float sum = 0.0f;
                    if (CARRY) total[c] += d[c];
#pragma unroll
                    for (int n = 0; n < NS; n++) {
                        const float decay = decay_of(d[c] * A[c][n], n >= NS - POLYNOMIAL);
                        h[c][n] = fmaf(decay, h[c][n], x[c] * Bs[n]);
                        if (OUTPUT) sum = n ? fmaf(h[c][n], Cs[n], sum) : h[c][n] * Cs[n];
                    }
                    y[s * NC + c] = sum;
                }
            }
            if (CARRY) continue;
            sum_and_share<G * NC, LN, 1>(y, lane);
#pragma unroll
            for (int i = 0; i < G * NC / LN; i++) {
                const int which = nl * (G * NC / LN) + i;
                y_s[(t + which / NC) * CW + cl * NC + which % NC] = y[i];
            }
        }
        __syncwarp();
#pragma unroll
        for (int v = 0; v < now_u.PIECES; v++) {
            const int piece = lane + 32 * v;
            const i64 t = t0 + piece / ROW;
            if (OUTPUT && live && piece < T * ROW && t < end) {
                float y[E];
                load_floats(y, y_s + piece * E);
#pragma unroll
                for (int i = 0; i < E; i++) {
                    if (HAS_D) y[i] = fmaf(D_s[column + i], now_u.get(v, i), y[i]);
                    if (HAS_Z) y[i] *= now_z.get(v, i) * sigmoid(now_z.get(v, i));
                }
                write_piece<TU>(out + t * p.out_l, y);
            }
        }
    }
    if (first >= channels) return;
    if (CARRY) {
        const i64 row = b * p.chunks + part;
#pragma unroll
        for (int n = 0; n < NS; n++) {
            float out[NC];
#pragma unroll
            for (int i = 0; i < NC; i++) out[i] = h[i][n];
            store_floats(p.added + (row * N + n0 + n) * channels + first, out);
        }
        if (nl == 0) store_floats(p.sum_dt + row * channels + first, total);
    }
    if (OUTPUT && HAS_LAST && end == p.length)
#pragma unroll
        for (int c = 0; c < NC; c++) store_floats(p.last + (b * channels + first + c) * N + n0, h[c]);
}
