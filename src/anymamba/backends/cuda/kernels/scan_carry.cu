// First pass of the backward scan where the length is cut into chunks: the gradient that a chunk adds to the state before it, and
// its sum of step sizes a channel. The mathematics is in scan_backward.cu, the layout in scan_forward.cu.
#include "scan_layout.cuh"

struct CarryArguments {
    const char *dt, *z, *dout, *C, *A, *bias;
    float *added, *sum_dt;
    i64 dt_b, dt_l, z_b, z_l, dout_b, dout_l, C_b, C_g, C_l;  // bytes
    i64 a_d, a_n;                                             // elements
    i64 length, channels, group, blocks, chunk, chunks;
};

constexpr int CARRY_FLOATS = 2 * T * CW + T * 2 * N + (CW + 3) / 4 * 4;

extern "C" __global__ void __launch_bounds__(WARPS * 32) scan_carry(const CarryArguments p) {
    extern __shared__ __align__(16) float shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channels = p.channels;
    float *dt_s = shared + warp * CARRY_FLOATS, *dy_s = dt_s + T * CW, *c_s = dy_s + T * CW, *bias_s = c_s + T * 2 * N;
    // the first chunk passes nothing on
    const int c = blockIdx.x / p.blocks % (p.chunks - 1) + 1;
    const i64 b = blockIdx.x / p.blocks / (p.chunks - 1);
    const int ch0 = (int(blockIdx.x % p.blocks) * WARPS + warp) * CW;
    if (ch0 >= channels) return;
    const int nl = lane % LN, cl = lane / LN, first = ch0 + cl * NC, n0 = nl * NS;
    for (int i = lane; i < CW; i += 32) bias_s[i] = HAS_BIAS && ch0 + i < channels ? Format<TBIAS>::one(p.bias, ch0 + i) : 0.0f;
    float A[NC][NS], g[NC][NS], total[NC];
    load_A(A, p.A, p.a_d, p.a_n, first, n0, channels);
#pragma unroll
    for (int i = 0; i < NC; i++) {
        total[i] = 0.0f;
#pragma unroll
        for (int n = 0; n < NS; n++) g[i][n] = 0.0f;
    }
    const int column = lane % ROW * E;
    const bool live = ch0 + column < channels;
    const i64 start = i64(c) * p.chunk, end = start + p.chunk < p.length ? start + p.chunk : p.length, ch = ch0 + column;
    const char* dt = p.dt + b * p.dt_b + ch * sizeof(TDT);
    const char* z = p.z + b * p.z_b + ch * sizeof(TZ);
    const char* dout = p.dout + b * p.dout_b + ch * sizeof(TU);
    const char* C = p.C + b * p.C_b + ch0 / p.group * p.C_g;
    Rows<TU, T> next_dout;
    Rows<TDT, T> next_dt;
    Rows<TZ, T> next_z;
    States<TC, T> next_C;
    auto load = [&](i64 t0) {
        next_dt.load(dt, p.dt_l, t0, end, live, lane);
        next_C.load(C, p.C_l, t0, end, lane);
        next_dout.load(dout, p.dout_l, t0, end, live, lane);
        if (HAS_Z) next_z.load(z, p.z_l, t0, end, live, lane);
    };
    i64 t0 = start + (end - start - 1) / T * T;
    load(t0);
    __syncwarp();
    for (; t0 >= start; t0 -= T) {
#pragma unroll
        for (int v = 0; v < next_dt.PIECES; v++) {
            const int piece = lane + 32 * v;
            const bool inside = t0 + piece / ROW < end;
            float d[E], dy[E];
#pragma unroll
            for (int i = 0; i < E; i++) {
                d[i] = inside ? step_size(next_dt.get(v, i), bias_s[column + i]) : 0.0f;
                dy[i] = next_dout.get(v, i);
                if (HAS_Z) dy[i] *= next_z.get(v, i) * sigmoid(next_z.get(v, i));
            }
            if (piece < T * ROW) {
                store_floats(dt_s + piece * E, d);
                store_floats(dy_s + piece * E, dy);
            }
        }
        next_C.spread(c_s, lane);
        if (t0 > start) load(t0 - T);
        __syncwarp();
#pragma unroll 4
        for (int t = T - 1; t >= 0; t--) {
            float d[NC], dy[NC], Cs[NS];
            load_floats(d, dt_s + t * CW + cl * NC);
            load_floats(dy, dy_s + t * CW + cl * NC);
            load_floats(Cs, c_s + t * 2 * N + n0);
#pragma unroll
            for (int i = 0; i < NC; i++) {
                total[i] += d[i];
#pragma unroll
                for (int n = 0; n < NS; n++) g[i][n] = decay_of(d[i] * A[i][n]) * fmaf(dy[i], Cs[n], g[i][n]);
            }
        }
        __syncwarp();
    }
    if (first >= channels) return;
    const i64 row = b * p.chunks + c;
#pragma unroll
    for (int n = 0; n < NS; n++) {
        float out[NC];
#pragma unroll
        for (int i = 0; i < NC; i++) out[i] = g[i][n];
        store_floats(p.added + (row * N + n0 + n) * channels + first, out);
    }
    if (nl == 0) store_floats(p.sum_dt + row * channels + first, total);
}
